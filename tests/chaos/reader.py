"""A follower that uses our own client; its record is of the same kind as a plain client's."""

from __future__ import annotations

import json
import threading

from lanewise import Client
from lanewise.errors import GapError, UnreachableError
from tests.chaos.client import CANARY
from tests.chaos.gateways import Person
from tests.chaos.watch import Told, Watch, digest

CLOSE_S = 20.0


class Reader:
    """Follows a user's stream from the beginning, in a thread of its own.

    Args:
        url: of a gateway.
    """

    def __init__(self, person: Person, url: str) -> None:
        self.watch = Watch(person.name, "our own client", start=0)
        self._client = Client(url, person.token)
        self._stream = self._client.stream(after=0)
        self._closed = False
        self._thread = threading.Thread(target=self._read, name=f"reader {person.name}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the stream."""
        self._closed = True
        self._stream.close()
        self._thread.join(CLOSE_S)
        self._client.close()

    def _read(self) -> None:
        while not self._closed:
            try:
                for event in self._stream:
                    self.watch.accept(event["seq"], digest(event))
                    self.watch.canaries.update(CANARY.findall(json.dumps(event)))
            except GapError as gap:
                told = Told(self.watch.last, gap.head, gap.reason, isinstance(gap.snapshot, dict))
                self.watch.told.append(told)
            except UnreachableError:
                self._stream = self._client.stream(after=self.watch.last)
