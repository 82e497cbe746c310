"""A fleet whose two gateways are reached through the proxy, and what its database says about users' streams."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC
from urllib.parse import urlsplit

from lanewise import Client
from tests.chaos.conductor import LEASE_S, SETTINGS, api_urls
from tests.chaos.detour import Detour
from tests.chaos.faults import Scene
from tests.chaos.history import History
from tests.chaos.stores import Stores
from tests.chaos.watch import FIELDS, Log, digest
from tests.fleet.fleet import Fleet

ACCEPTED_S = 40.0
EVENTS = f"SELECT user_id, seq, {', '.join(FIELDS)} FROM lanewise.run_events ORDER BY user_id, seq"  # noqa: S608 - names of ours
STREAMS = "SELECT user_id, head, trimmed FROM lanewise.user_streams"

TALKING = """
    SELECT count(*) AS runs FROM lanewise.runs WHERE agent = 'talk' AND status IN ('queued', 'running')
    AND (CAST(:names AS text[]) IS NULL OR user_id = ANY(:names))
"""


@dataclass(frozen=True)
class Person:
    """A user, and the canary that is in all their inputs."""

    name: str
    token: str
    canary: str


@dataclass(frozen=True)
class Gateways:
    """See the module.

    Args:
        urls: of the gateways, by the name of their route through the proxy.
    """

    scene: Scene
    detour: Detour
    urls: Mapping[str, str]

    @classmethod
    @contextmanager
    def start(cls, *, workers: int, slots: int, env: Mapping[str, str] | None = None) -> Iterator[Gateways]:
        """Runs all until the end of the block.

        Args:
            slots: of each worker.
            env: settings besides those of every fleet of the suite.
        """
        with ExitStack() as stack:
            stores = stack.enter_context(Stores.start())
            options = (
                *("--apis", "2", "--workers", str(workers), "--slots", str(slots), "--no-flower"),
                *("--redis-url", stores.redis_url, "--database-url", stores.database_url),
            )
            settings = {**SETTINGS, "LANEWISE_SECRET_KEY": stores.secret_key, **(env or {})}
            fleet = stack.enter_context(Fleet.start(*options, env=settings))
            upstreams = {f"gateway {n}": urlsplit(url).port or 0 for n, url in enumerate(api_urls(fleet), 1)}
            detour = stack.enter_context(Detour(upstreams))
            urls = {route: f"http://127.0.0.1:{port}" for route, port in detour.ports.items()}
            yield cls(Scene(fleet, stores, History(), LEASE_S), detour, urls)

    @property
    def stream_urls(self) -> list[str]:
        """Of the WebSockets."""
        return [f"ws{url.removeprefix('http')}/v1/stream" for url in self.urls.values()]

    def person(self, name: str, chance: random.Random) -> Person:
        """Returns a new user."""
        return Person(name, self.scene.fleet.token(name), f"lwcanary{chance.getrandbits(128):032x}")

    def submit(self, person: Person, **speech: float) -> None:
        """Has a user submit a run of `talk`, as often as it takes."""
        with Client(self.scene.fleet.url, person.token, retry_s=ACCEPTED_S) as client:
            client.submit("talk", {"canary": person.canary, **speech})

    def talking(self, names: Sequence[str] | None = None) -> int:
        """Returns how many runs of `talk` have not ended, of all users or of some."""
        return int(self.scene.stores.rows(TALKING, names=names)[0].runs)

    def heads(self, names: Sequence[str]) -> dict[str, int]:
        """Returns the number of the last event of each of these users."""
        return {row.user_id: row.head for row in self.scene.stores.rows(STREAMS) if row.user_id in names}

    def logs(self) -> dict[str, Log]:
        """Returns all users' logs, read straight from the tables."""
        digests: dict[str, dict[int, str]] = defaultdict(dict)
        for row in self.scene.stores.rows(EVENTS):
            event = dict(row._mapping)
            at = row.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            digests[row.user_id][row.seq] = digest(event | {"at": at})
        rows = self.scene.stores.rows(STREAMS)
        return {row.user_id: Log(digests[row.user_id], row.head, row.trimmed or 0) for row in rows}
