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
OF_SIZE = frozenset({"largest", "biggest", "greatest", "highest", "longest", "smallest", "lowest", "shortest"})
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
UNITS: dict[str, Unit] = {
    **{f"{unit}{end}": unit for unit in get_args(Unit) for end in ("", "s")},
    "monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "weekly": "week", "daily": "day",
    "quarterly": "quarter",
}  # fmt: skip
LISTS = ("list", "show", "display", "which", "what", "who", "where", "when", "print", "look up", "give")
CHARTS = ("plot", "chart", "graph", "draw", "visualise", "visualize", "diagram", "bar", "line", "histogram")
NO_SQL = frozenset({
    "forecast", "predict", "prediction", "cluster", "clustering", "anomaly", "anomalies", "outlier", "outliers",
    "regression", "extrapolate",
})  # fmt: skip
# What a word after one of these says is a part of the question that must not be passed over.
BINDING = frozenset({
    "by", "per", "each", "every", "in", "for", "from", "of", "at", "with", "where", "across", "among", "to",
    "named", "called", "which", "whose", "than", "and", "or", "not", "without",
})  # fmt: skip
# May stand right before what is asked for without narrowing it.
VERBS = frozenset(
    {"compare", "calculate", "compute", "determine", "get", "want", "see", "need", "overall", "visualise"}
)
ARTICLES = frozenset({"the", "a", "an", "all", "any", "our", "my", "their", "its"})
