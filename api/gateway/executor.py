"""Submit and cancel over the WebSocket: the same functions as over REST, so the same checks and the same results."""

from __future__ import annotations

from typing import Any

from api.cancellation import cancel
from api.gateway.protocol import bad_message
from api.idempotency import make_key
from api.models import RunCancellation, RunSubmission
from api.operations import check
from api.submission import Submissions
from shared.ids import new_id
from shared.services import Services
from shared.tokens import Identity


class ConnectionExecutor:
    """Executes the requests of one connection for its user. A `user_id` inside a message is refused, never believed.

    Args:
        identity: whom the connection's token or ticket named.
    """

    def __init__(self, services: Services, submissions: Submissions, identity: Identity) -> None:
        self._services = services
        self._submissions = submissions
        self._identity = identity

    def execute_with_websocket(self, request_data: dict[str, Any], connection_id: str) -> dict[str, Any]:
        """Does what a frame asks for; returns the run.

        Args:
            request_data: the frame: `t` is `run.submit` or `run.cancel`.
            connection_id: of the connection it came over.

        Raises:
            LanewiseError: as over REST.
        """
        body = {name: value for name, value in request_data.items() if name not in {"t", "ref", "idempotency_key"}}
        match request_data.get("t"):
            case "run.submit":
                request = check(RunSubmission, body)
                asked = request_data.get("idempotency_key")
                key = None if asked is None else make_key(asked, request.model_dump(exclude_unset=True))
                return self._submissions.submit(self._identity, request, key, new_id(), connection_id)
            case "run.cancel":
                run_id = check(RunCancellation, body).run_id
                view, _ = cancel(self._services, self._identity.user_id, run_id)
                return view
        raise bad_message("unknown frame")
