"""Seeded mutation of what is sound: JSON values field by field, texts and bytes piece by piece."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

MAX_DEPTH = 1200  # Python's JSON reader gives up a little below 1,000
HUGE = 10**300  # as a number with a point
# What code stumbles over: limits and their neighbours, other types and scripts, what databases take amiss.
ODD_TEXTS = (
    "", " ", "None", "null", "system", "default", "0", "-1", "1e999", "NaN", "true", "\0", "a\0b", "\ud800",
    "\udfff\ud800", "\u202e", "\ufeff", "é", "e\u0301", "😀" * 40, "\r\nX: y", "\x1b[2J", "../../etc/passwd", "%00",
    "%s%n", "{0}", "' OR 1=1 --", "$(id)", "a.b.c", "a/limits", "x" * 64, "x" * 65, "x" * 128, "x" * 129, "x" * 256,
    "x" * 501, "x" * 5000, "\u0663", "9999-12-31T23:59:59.999999+00:00", "0001-01-01T00:00:00+23:59",
    "2026-13-01T00:00:00Z", "Infinity", "__class__",
)  # fmt: skip
ODD_NUMBERS = (
    0, 1, -1, 2, 16, 17, 255, 256, 65_536, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1,
    10**18, 10**40, 10**400, 0.0, -0.0, 0.5, 1.0, 1.5, 1e-320, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
    86_400, 86_400.001,
)  # fmt: skip
ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
_DEEP = re.compile(r'"@deep ([\[{]) (\d+)@"')


class Mutator:
    """Makes odd values of sound ones; the same seed makes the same.

    Args:
        seed: of its chance.
    """

    def __init__(self, seed: int | str) -> None:
        self.chance = random.Random(seed)
        self._operations: tuple[Callable[[Any], Any], ...] = (
            self._other, self._other, self._near, self._near, self._wrapped, str, self._grown,
        )  # fmt: skip

    def maybe(self, share: float) -> bool:
        """Tells whether it is to be this time."""
        return self.chance.random() < share

    def value(self, sound: Any, untouched: float = 0.12) -> Any:
        """Returns a copy of a JSON value with some of its places changed.

        Args:
            untouched: the share that stays as it is: what follows a sound value is to be reached, too.
        """
        value = copy.deepcopy(sound)
        if self.maybe(untouched):
            return value
        for _ in range(self.chance.choice((1, 1, 1, 1, 2, 2, 3, 5))):
            value = self._changed(value)
        return value

    def text(self, value: Any) -> str:
        """Returns the JSON of a value of ours, sometimes as another writer would put it."""
        written = json.dumps(value, ensure_ascii=self.maybe(0.9), separators=(",", ":") if self.maybe(0.5) else None)
        written = _DEEP.sub(_nested, written)
        return self._pieces(written, lambda: self.chance.choice('{}[]",:\\\0 e0-ü')) if self.maybe(0.04) else written

    def bytes(self, sound: bytes) -> bytes:
        """Returns bytes of which some are others, gone, doubled or cut off."""
        changed: bytes = self._pieces(
            sound, lambda: bytes((self.chance.choice((*ODD_BYTES, *self.chance.randbytes(3))),))
        )
        return changed

    def characters(self, sound: str) -> str:
        """Does the same with text."""
        changed: str = self._pieces(sound, lambda: self.chance.choice("\0.-_=AZaz09 é😀\ud800"))
        return changed

    def _changed(self, value: Any) -> Any:
        places = list(_places(value))
        if not places or self.maybe(0.03):
            return self.odd()
        parent, key = self.chance.choice(places)
        dice = self.chance.random()
        if isinstance(parent, dict) and dice < 0.12:
            del parent[key]
        elif isinstance(parent, dict) and dice < 0.2:
            parent[self.chance.choice(("user_id", "x", "", "\ud800", "__proto__", f"{key}_", "v", "t"))] = self.odd()
        elif isinstance(parent, list) and dice < 0.2:
            parent.extend([parent[key]] * self.chance.choice((1, 2, 40)))
        else:
            parent[key] = self.chance.choice(self._operations)(parent[key])
        return value

    def odd(self) -> Any:
        """Returns something that is hardly ever what is wanted."""
        match self.chance.randrange(8):
            case 0 | 1:
                return self.chance.choice(ODD_TEXTS)
            case 2 | 3:
                return self.chance.choice(ODD_NUMBERS)
            case 4:
                return self.chance.choice((None, True, False))
            case 5:
                return self.chance.choice(([], {}, [[]], [None], {"": ""}, {"a": {"b": [1]}}, [{}, "x"], {"\0": 1}))
            case 6:
                deepest = (self.chance.randrange(900, MAX_DEPTH), self.chance.randrange(960, 1000))
                deep = self.chance.choice((2, 15, 16, 17, 19, 20, 21, 22, 100, *deepest))
                return f"@deep {self.chance.choice('[{')} {deep}@"
            case _:
                return self._grown(self.chance.choice(("x", "😀", [0], {"k": "v"})))

    def _other(self, _: Any) -> Any:
        return self.odd()

    def _near(self, value: Any) -> Any:
        if isinstance(value, bool) or value is None:
            return not value
        if isinstance(value, int | float):
            return self.chance.choice(
                (-value, value + 1, value - 1, float(min(max(value, -HUGE), HUGE)), value * 2**32, str(value))
            )
        if isinstance(value, str):
            return self.characters(value) if value else " "
        return self.odd()

    def _wrapped(self, value: Any) -> Any:
        return self.chance.choice(([value], {"a": value}, [value, value]))

    def _grown(self, value: Any) -> Any:
        times = self.chance.choice((2, 10, 65, 130, 260, 3000))
        if isinstance(value, str):
            return value * times if len(value) < 100 else value
        if isinstance(value, list):
            return value * min(times, 300) if len(value) < 10 else value
        if isinstance(value, dict):
            return {**value, **{f"k{number}": number for number in range(min(times, 300))}}
        return [value] * min(times, 300)

    def _pieces(self, sound: Any, some: Callable[[], Any]) -> Any:
        found = sound
        for _ in range(self.chance.choice((1, 1, 1, 2, 3, 8))):
            at = self.chance.randrange(len(found) + 1)
            upto = min(len(found), at + self.chance.choice((1, 1, 1, 2, 4, 30)))
            match self.chance.randrange(6):
                case 0 | 1:
                    found = found[:at] + some() + found[at + 1 :]
                case 2:
                    found = found[:at] + some() + found[at:]
                case 3:
                    found = found[:at] + found[upto:]
                case 4:
                    found = found[:upto] + found[at:]
                case _:
                    found = found[:at] if self.maybe(0.3) else found[:at] + found[at:upto][::-1] + found[upto:]
        return found


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yields each place of a value that can be set, as what holds it and under which key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _nested(match: re.Match[str]) -> str:
    depth = int(match[2])
    return "[" * depth + "]" * depth if match[1] == "[" else '{"a":' * depth + "0" + "}" * depth
