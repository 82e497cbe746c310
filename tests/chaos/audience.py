"""All who follow some users' streams: plain clients in processes of their own, and our own client in this one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.crowd import Crowd
from tests.chaos.gateways import Gateways, Person
from tests.chaos.process import Helper
from tests.chaos.reader import Reader
from tests.chaos.watch import Watch


@dataclass(frozen=True)
class Size:
    """How many follow each user.

    Args:
        processes: with plain clients.
        sockets: of each user in each process.
        cuts: of each socket, by its own client.
        over_s: the time within which they come.
        readers: followers with our own client.
    """

    processes: int = 1
    sockets: int = 2
    cuts: int = 2
    over_s: float = 5.0
    readers: int = 1


class Audience:
    """Follows until the end of the `with` block; `watches` are the records then.

    Its processes are up before the block begins.

    Args:
        name: decides with the seed what chance does.
    """

    def __init__(self, gateways: Gateways, people: Sequence[Person], size: Size, name: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lanewise-audience-")
        self._logs = [Path(self._folder.name, f"{number}.jsonl") for number in range(size.processes)]
        self.watches: list[Watch] = []
        users = [(person.name, person.token) for person in people]
        self._orders = [
            Crowd(f"{name} {log.name}", gateways.stream_urls, users, size.sockets, size.cuts, size.over_s, str(log))
            for log in self._logs
        ]
        self._crowds = [Helper("crowd") for _ in self._logs]
        for crowd in self._crowds:
            crowd.answer()
        urls = sorted(gateways.urls.values())
        self._readers = [
            Reader(person, urls[number % len(urls)])
            for number, person in enumerate(person for person in people for _ in range(size.readers))
        ]

    def __enter__(self) -> Self:
        for crowd, order in zip(self._crowds, self._orders, strict=True):
            crowd.tell(json.dumps(asdict(order)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for crowd in self._crowds if error is None else ():
                crowd.ask("finish")
        finally:
            for ending in (*(crowd.end for crowd in self._crowds), *(reader.close for reader in self._readers)):
                ending()
        if error is None:
            self.watches = [Watch.from_json(line) for log in self._logs for line in log.read_text().splitlines()]
            self.watches += [reader.watch for reader in self._readers]
        self._folder.cleanup()

    def are_at(self, heads: dict[str, int]) -> bool:
        """Tells whether all have caught up and have everything up to these numbers."""
        cursors = [crowd.ask("cursors") for crowd in self._crowds]
        cursors += [{reader.watch.user: reader.watch.last} for reader in self._readers]
        return all(last >= heads.get(user, 0) for lowest in cursors for user, last in lowest.items())
