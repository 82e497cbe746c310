"""How long to wait between tries."""

from __future__ import annotations

import random

FIRST_S = 0.1
LAST_S = 5.0


def backoff_s(failures: int) -> float:
    """Returns the pause after so many failures in a row, seconds: doubling up to a limit, jittered.

    Without the jitter all clients of a restarted service would come back at the same moments.
    """
    return random.uniform(0.5, 1.0) * min(LAST_S, FIRST_S * 2.0 ** min(failures - 1, 16))  # noqa: S311 - no secret
