"""Tickets: what a browser shows in its hello instead of a token. Signed, for one use, for half a minute."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from api.revocations import Revocations
from shared.errors import SignatureError, UnauthorizedError, UnavailableError
from shared.ids import new_id
from shared.redis import RedisError
from shared.services import Services
from shared.signing import Signer
from shared.tokens import Identity

TTL_S = 30
_BAD = "the ticket is not valid, has expired or was used"


class Tickets:
    """Makes and uses tickets.

    A ticket counts only while its mark is in Redis, and using it takes the mark away: a wipe of Redis makes tickets
    invalid, never usable twice.
    """

    def __init__(self, services: Services, revocations: Revocations) -> None:
        settings = services.settings
        self._signer = Signer(settings.secrets, "ticket", settings.deployment)
        self._revocations = revocations
        self._redis = services.redis
        self._keys = services.keys

    def issue(self, identity: Identity) -> str:
        """Returns a ticket that stands for the identity, no longer than its token.

        Raises:
            UnavailableError: Redis is away.
        """
        ticket_id = new_id()
        self._set_mark(ticket_id)
        return self._signer.sign(
            {
                "id": ticket_id,
                "user_id": identity.user_id,
                "scopes": sorted(identity.scopes),
                "token_began": identity.issued_at.timestamp(),
                "token_ends": identity.expires_at.timestamp(),
                "until": time.time() + TTL_S,
            }
        )

    def use(self, ticket: str) -> Identity:
        """Returns whom a ticket stands for, and makes it worthless.

        Raises:
            UnauthorizedError: tampered, expired or used, or the user's tokens of that time were revoked.
            UnavailableError: Redis is away.
        """
        try:
            value = self._signer.verify(ticket, max_age_s=TTL_S)
            began, ends = (datetime.fromtimestamp(value[name], UTC) for name in ("token_began", "token_ends"))
        except (SignatureError, KeyError) as error:  # an api of another version puts other things into its tickets
            raise UnauthorizedError(_BAD) from error
        if time.time() > min(value["until"], value["token_ends"]) or not self._take_mark(value["id"]):
            raise UnauthorizedError(_BAD)
        identity = Identity(value["user_id"], frozenset(value["scopes"]), began, ends)
        self._revocations.check(identity)
        return identity

    def _set_mark(self, ticket_id: str) -> None:
        try:
            self._redis.set(self._keys.ticket(ticket_id), "1", ex=TTL_S)
        except RedisError as error:
            raise UnavailableError("tickets need Redis, which is away", retry_after_s=2) from error

    def _take_mark(self, ticket_id: str) -> bool:
        try:
            return self._redis.delete(self._keys.ticket(ticket_id)) == 1
        except RedisError as error:
            raise UnavailableError("tickets need Redis, which is away", retry_after_s=2) from error
