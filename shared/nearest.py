"""What was probably meant by a name that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'this'?`, or nothing where nothing is near. For the end of a message."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Returns `no agent is called 'x'; did you mean 'y'?; there are: y, z`."""
    names = sorted(known)
    return f"no {kind} is called {name!r}{did_you_mean(name, names)}; there are: {', '.join(names) or 'none'}"
