"""The api as it is, with one path more that tells how many greenlets its process has: they show in nothing else."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

from greenlet import greenlet  # type: ignore[import-untyped]

from api.wsgi import app
from benchmarks.visitors import GREENLETS_PATH

_serve = app.wsgi_app


def _count(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] != GREENLETS_PATH:
        return _serve(environ, start_response)
    gc.collect()
    number = sum(isinstance(thing, greenlet) and not thing.dead for thing in gc.get_objects())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(number).encode()]


app.wsgi_app = _count  # type: ignore[method-assign]
