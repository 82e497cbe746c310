"""The words that tables are asked with, by what they do in a sentence."""

from __future__ import annotations

from typing import get_args

from worker.questions.ask import How, Unit

AGGREGATES: dict[str, How] = {
    "total": "sum", "sum": "sum", "overall": "sum", "altogether": "sum", "combined": "sum", "how much": "sum",
    "average": "avg", "avg": "avg", "mean": "avg", "median": "median",
    "minimum": "min", "min": "min", "maximum": "max", "max": "max",
}  # fmt: skip
MOST = ("most", "highest", "largest", "biggest", "greatest", "top", "longest", "latest", "newest")
LEAST = ("least", "fewest", "lowest", "smallest", "bottom", "shortest", "earliest", "oldest")
OF_TIME = frozenset({"latest", "newest", "earliest", "oldest"})
COUNTS = (
    "how many", "number of", "numbers of", "count of", "counts of", "count", "counts", "frequency of", "frequency",
    "frequencies of", "amount of",
)  # fmt: skip
DISTINCT = ("different", "distinct", "unique")
SHARES = (
    "share of", "share", "percentage of", "percentage", "percent of", "percent", "proportion of", "proportion",
    "fraction of", "what part of",
)  # fmt: skip
PER = (
    "grouped by", "broken down by", "split by", "for each", "for every", "in each", "in every", "of each", "of every",
    "by", "per", "each", "every", "across", "among",
)  # fmt: skip
SORT = ("sorted by", "sort by", "ordered by", "order by", "ranked by", "rank by", "in order of")
UP = ("ascending", "increasing", "alphabetically", "smallest first", "lowest first", "oldest first")
DOWN = ("descending", "decreasing", "largest first", "highest first", "newest first")
SPREAD = ("distribution of", "breakdown of", "breakdown by", "distribution by", "breakdown", "distribution")
OVER_TIME = ("over time", "over the years", "trend of", "trend in", "trends in", "trend", "trends", "development of")
CORRELATION = ("correlation", "correlate", "correlated", "relationship")
UNITS: dict[str, Unit] = {
    **{f"{unit}{end}": unit for unit in get_args(Unit) for end in ("", "s")},
    "monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "weekly": "week", "daily": "day",
    "quarterly": "quarter",
}  # fmt: skip
LISTS = ("list", "show", "display", "which", "what", "who", "where", "when", "print", "look up", "give")
YES_OR_NO = frozenset({"is", "are", "was", "were"})
ASK_FOR_ROWS = frozenset({"who", "where", "when"})  # at the beginning: a figure is no answer
CHARTS = (
    "bar chart", "line chart", "bar graph", "line graph", "plot", "chart", "graph", "draw", "visualise", "visualize",
    "diagram",
)  # fmt: skip
NO_SQL = frozenset({
    "forecast", "predict", "prediction", "cluster", "clustering", "anomaly", "anomalies", "outlier", "outliers",
    "regression", "extrapolate",
})  # fmt: skip
# Words that may be passed over, because no answer would be another one with them. All others have to be explained.
FILLERS = frozenset({
    "a", "an", "the", "all", "any", "our", "my", "their", "its", "your", "me", "us", "i", "we", "you", "of", "in", "on",
    "at", "to", "for", "from", "with", "as", "and", "is", "are", "was", "were", "be", "been", "am", "do", "does", "did",
    "has", "have", "had", "having", "there", "that", "who", "whom", "whose", "which", "what", "what's", "where",
    "please", "can", "could", "would", "should", "tell", "give", "find", "get", "know", "want", "need", "see", "let",
    "compare", "calculate", "compute", "determine", "then", "also", "it", "they", "table", "data", "file", "these",
    "those", "exist", "exists", "show", "list",
})  # fmt: skip
ROW_WORDS = frozenset({"rows", "row", "records", "record", "entries", "entry", "lines", "items"})
ARTICLES = frozenset({"the", "a", "an", "all", "any", "our", "my", "their", "its"})
# What may follow an aggregate that names no column: `average by region`. Any other word says of what.
UNSAID = frozenset({"by", "per", "each", "every", "in", "for", "since", "before", "after", "until", "during"})
