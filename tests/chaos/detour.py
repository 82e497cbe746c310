"""The proxy's process, and the orders that it carries out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from tests.chaos.process import Helper


class Detour:
    """Runs the proxy until the end of the `with` block.

    Attributes:
        ports: ours, by the name of their route.

    Args:
        upstreams: ports that the routes lead to.
    """

    def __init__(self, upstreams: Mapping[str, int]) -> None:
        self._helper = Helper("proxy", json.dumps(upstreams))
        self.ports: dict[str, int] = self._helper.answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._helper.end()

    def order(self, route: str, do: str, **arguments: Any) -> Any:
        """Has a route do something (see `tests.chaos.proxy.Route`); returns its answer."""
        return self._helper.ask(json.dumps({"route": route, "do": do, **arguments}))
