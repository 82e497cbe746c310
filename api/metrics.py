"""What the process counts, for Prometheus. No label ever carries a user's value."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one app, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lanewise_http_requests", "Requests, by route template", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "lanewise_http_request_seconds", "Time to answer", ("route",), buckets=_BUCKETS, registry=registry
        )
        self.sign_in_failures = Counter(
            "lanewise_sign_in_failures", "Tokens and tickets that were refused", registry=registry
        )
        self.submissions = Counter("lanewise_submissions", "Runs accepted", ("over",), registry=registry)
        self.sockets = Gauge("lanewise_sockets", "Open WebSockets and SSE streams", registry=registry)
        self.waiting = Gauge("lanewise_waiting_requests", "Requests that wait for the end of a run", registry=registry)
        self.body_bytes = Gauge("lanewise_body_bytes", "Bytes of large bodies that are held", registry=registry)
        self.channels = Gauge("lanewise_channels", "Users whose events this process follows", registry=registry)
        self.events_replayed = Counter("lanewise_events_replayed", "Event frames read from the log", registry=registry)
        self.replays = Counter(
            "lanewise_replays", "Clients caught up, by where from: memory or log", ("source",), registry=registry
        )
        self.repairs = Counter("lanewise_gaps_repaired", "Times that events were missing", registry=registry)
        self.events_repaired = Counter("lanewise_events_repaired", "Events read for that", registry=registry)
        self.subscription_changes = Counter(
            "lanewise_subscription_changes", "Subscription connections made or lost", registry=registry
        )
        self.closes = Counter("lanewise_socket_closes", "WebSockets closed by us", ("code",), registry=registry)

    def render(self) -> bytes:
        """Returns the text that Prometheus reads."""
        return generate_latest(self.registry)
