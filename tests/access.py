"""Who may call what: a row for each route and method, a column for each kind of caller.

A route without a row fails the build (`test_access.py`), and so does a row without a route.
"""

from __future__ import annotations

from typing import NamedTuple

# The only ones: a new route that is open must be entered here, with a reason that a reviewer accepts.
OPEN = {
    "/": "the console, which asks for a token by itself",
    "/console/<file_name>": "belongs to it; holds no user's value",
    "/lanewise.js": "the client, for pages of others, too",
    "/docs": "describes the API",
    "/docs/page.js": "belongs to it",
    "/docs/page.css": "belongs to it",
    "/openapi.json": "describes the API",
    "/healthz": "for a process supervisor",
    "/readyz": "for a load balancer",
    "/metrics": "for Prometheus; holds no user's value",
    "/v1/stream": "a WebSocket, which signs in by itself: see STREAM; without an upgrade there is nothing",
}

# What each is answered about something of the owner's, which is in the path, the query or the body.
#   nobody: no token, or one that is not good here    unscoped: a good token of the owner's without a scope of ours
#   other: another user     owner: the user it belongs to
#   admin: another user with the scope admin alone    both: with the scopes runs and admin
_MATRIX = """
    method   route                                          nobody unscoped other owner admin both
    GET,HEAD /                                                 200      200   200   200   200  200
    GET,HEAD /console/<file_name>                              200      200   200   200   200  200
    GET,HEAD /lanewise.js                                      200      200   200   200   200  200
    GET,HEAD /docs                                             200      200   200   200   200  200
    GET,HEAD /docs/page.js                                     200      200   200   200   200  200
    GET,HEAD /docs/page.css                                    200      200   200   200   200  200
    GET,HEAD /openapi.json                                     200      200   200   200   200  200
    GET,HEAD /healthz                                          200      200   200   200   200  200
    GET,HEAD /readyz                                           200      200   200   200   200  200
    GET,HEAD /metrics                                          200      200   200   200   200  200
    GET,HEAD /v1/stream                                        400      400   400   400   400  400
    GET,HEAD /v1/agents                                        401      403   200   200   403  200
    GET,HEAD /v1/me                                            401      403   200   200   403  200
    POST     /v1/tickets                                       401      403   201   201   403  201
    GET,HEAD /v1/runs                                          401      403   200   200   403  200
    POST     /v1/runs                                          401      403   404   202   403  404
    GET,HEAD /v1/runs/<run_id>                                 401      403   404   200   403  404
    GET,HEAD /v1/runs/<run_id>/wait                            401      403   404   200   403  404
    GET,HEAD /v1/runs/<run_id>/events                          401      403   404   200   403  404
    POST     /v1/runs/<run_id>/cancel                          401      403   404   202   403  404
    POST     /v1/runs/<run_id>/retry                           401      403   404   202   403  404
    GET,HEAD /v1/runs/<run_id>/artifacts                       401      403   404   200   403  404
    GET,HEAD /v1/runs/<run_id>/artifacts/<name>                401      403   404   200   403  404
    GET,HEAD /v1/threads                                       401      403   200   200   403  200
    POST     /v1/threads                                       401      403   201   201   403  201
    GET,HEAD /v1/threads/<thread_id>                           401      403   404   200   403  404
    DELETE   /v1/threads/<thread_id>                           401      403   404   204   403  404
    GET,HEAD /v1/documents                                     401      403   200   200   403  200
    GET,HEAD /v1/documents/<name>                              401      403   404   200   403  404
    PUT      /v1/documents/<name>                              401      403   201   200   403  201
    DELETE   /v1/documents/<name>                              401      403   404   204   403  404
    GET,HEAD /v1/documents/<name>/passages/<number>            401      403   404   200   403  404
    GET,HEAD /v1/admin/users/<user:user_id>/limits             401      403   403   403   200  200
    PUT      /v1/admin/users/<user:user_id>/limits             401      403   403   403   200  200
    GET,HEAD /v1/admin/users/<user:user_id>/grants             401      403   403   403   200  200
    PUT      /v1/admin/users/<user:user_id>/grants             401      403   403   403   200  200
    POST     /v1/admin/users/<user:user_id>/revoke             401      403   403   403   200  200
    DELETE   /v1/admin/users/<user:user_id>                    401      403   403   403   202  202
    GET,HEAD /v1/admin/users/<user:user_id>/deletion           401      403   403   403   200  200
    GET,HEAD /v1/admin/audit                                   401      403   403   403   200  200
    GET,HEAD /v1/admin/slots                                   401      403   403   403   200  200
"""

# The WebSocket: what the upgrade and the hello show, and how it is answered: `welcome`, or the code it is closed with.
#   `-` stands for nothing; what begins with `ticket` is one of the owner's unless it says whose.
_STREAM = """
    upgrade       hello              answer
    -             -                    4401
    bad           -                    4401
    expired       -                    4401
    revoked       -                    4401
    unscoped      -                    4403
    admin         -                    4403
    other         -                 welcome
    owner         -                 welcome
    both          -                 welcome
    -             ticket            welcome
    owner         ticket            welcome
    -             ticket.other      welcome
    -             ticket.used          4401
    -             ticket.changed       4401
    -             ticket.old           4401
    -             token                4401
    owner         ticket.other         4401
    owner         ticket.used          4401
    bad           ticket               4401
    query         -                    4401
    foreign-page  -                    4403
"""


class Row(NamedTuple):
    """What a method of a route answers to each kind of caller."""

    method: str
    route: str
    expected: dict[str, int]


class StreamRow(NamedTuple):
    """How the WebSocket answers to what is shown at the upgrade and in the hello."""

    upgrade: str
    hello: str
    answer: str


def _rows() -> list[Row]:
    head, *lines = (line.split() for line in _MATRIX.strip().splitlines())
    return [
        Row(method, route, dict(zip(head[2:], map(int, codes), strict=True)))
        for methods, route, *codes in lines
        for method in methods.split(",")
    ]


MATRIX = _rows()
STREAM = [StreamRow(*line.split()) for line in _STREAM.strip().splitlines()[1:]]
