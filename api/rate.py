"""How fast a user may submit: one rate over all api processes, and one for each of them while Redis is away."""

from __future__ import annotations

import time
from typing import cast

import structlog
from throttled.exceptions import StoreUnavailableError
from throttled.rate_limiter import GCRARateLimiter, RateLimitResult, per_sec
from throttled.store import MemoryStore, RedisStore, RedisStoreBackend
from throttled.types import SyncRedisClientP

from shared.errors import RateLimitedError
from shared.services import Services

MAX_USERS = 10_000  # whose rates a process remembers while Redis is away; of more, the longest unseen are forgotten
PAUSE_S = 2.0  # after a failure of Redis, until it is asked again: no submission is to wait for it a second time

log = structlog.get_logger(__name__)


class SubmissionRate:
    """Counts each user's submissions, by the generic cell rate algorithm: a burst at once, then a steady rate.

    Args:
        services: the limits, and Redis, which decides on its own clock, in one round trip.
    """

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._keys = services.keys
        self._rate = settings.user_submissions_per_s
        self._burst = settings.user_submission_burst
        quota = per_sec(self._rate, burst=self._burst)
        prefix = services.keys.rates
        self._shared = GCRARateLimiter(quota, _store(services), key_prefix=prefix)
        self._own = GCRARateLimiter(quota, MemoryStore(options={"MAX_SIZE": MAX_USERS}), key_prefix=prefix)
        self._ask_again_at = 0.0

    def count(self, user_id: str) -> None:
        """Counts a submission.

        Raises:
            RateLimitedError: it came too soon, and says how much; such a one is not counted.
        """
        self._count(self._keys.submissions(user_id), "submit", "runs or threads")

    def count_ticket(self, user_id: str) -> None:
        """Counts a ticket, apart from submissions: who has submitted too much can still sign in and watch.

        Raises:
            RateLimitedError: as above.
        """
        self._count(self._keys.tickets(user_id), "ask for", "tickets")

    def _count(self, key: str, verb: str, what: str) -> None:
        result = self._limit(key)
        if result.limited:
            problem = f"a user may {verb} {self._burst} {what} at once, and then {self._rate} a second"
            raise RateLimitedError(problem, retry_after_s=round(result.state.retry_after, 3))

    def _limit(self, key: str) -> RateLimitResult:
        now = time.monotonic()
        if now < self._ask_again_at:
            return self._own.limit(key)
        if self._ask_again_at:
            self._ask_again_at = now + PAUSE_S  # one submission asks, the others need not wait for it
        try:
            result = self._shared.limit(key)
        except StoreUnavailableError as error:
            self._ask_again_at = time.monotonic() + PAUSE_S
            log.warning("this process limits submissions by itself: redis is away", error=str(error.__cause__))
            return self._own.limit(key)
        self._ask_again_at = 0.0
        return result


def _store(services: Services) -> RedisStore:
    """Returns the library's store over our own client: its time-outs, and its connections end with ours."""

    class Backend(RedisStoreBackend):
        def get_client(self) -> SyncRedisClientP:
            return cast("SyncRedisClientP", services.redis)

    class Store(RedisStore):
        _BACKEND_CLASS = Backend

    return Store()
