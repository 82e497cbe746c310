"""What 10,000 idle sockets cost one gateway process: memory of each, and connections to Redis for all."""

from __future__ import annotations

from contextlib import ExitStack

import redis

from benchmarks import stand
from benchmarks.fleet import Fleet, Lab
from benchmarks.report import Figure
from benchmarks.stand import Readers, Server

SOCKETS_EACH = 20  # of a user
STARTERS = (stand.lanewise, stand.flask_sock, stand.websockets)


def measure(lab: Lab) -> list[Figure]:
    """Opens them in each server in turn, each in a new process: its growth divided by their number.

    The clients say that they have everything, as after a reconnect.
    """
    users = 50 if lab.quick else 500
    figures: dict[str, list[Figure]] = {}
    with Fleet(1) as fleet:
        for start in STARTERS:
            with ExitStack() as stack:
                server = stack.enter_context(start(fleet))
                figures[server.name] = _measure(server, users)
    ours = figures["Lanewise"][0].median
    ratios = [
        Figure(f"{name} / Lanewise, each", [figures[name][0].median / ours], "times")
        for name in figures
        if name != "Lanewise"
    ]
    return [figure for of_server in figures.values() for figure in of_server] + ratios


def _measure(server: Server, users: int) -> list[Figure]:
    count = users * SOCKETS_EACH
    with Readers() as readers:
        readers.ask("open", sockets=[server.socket("first", 0)])
        memory, clients = server.pss_kib(), _clients(server)
        opened = readers.ask(
            "open", sockets=[server.socket(f"user-{n}", n, after=0) for n in range(users) for _ in range(SOCKETS_EACH)]
        )
        grown = (server.pss_kib() - memory) * 1.024 / count
        return [
            Figure(
                f"{server.name}: memory of each of {count:,} sockets (PSS)",
                [grown],
                "kB",
                "<= 45" if server.ours else "",
            ),
            Figure(f"{server.name}: opened", [count / opened["seconds"]], "sockets/s"),
            Figure(f"{server.name}: clients of Redis more than with one socket", [_clients(server) - clients], "", "0"),
        ]


def _clients(server: Server) -> int:
    """Returns how many clients Redis has in all: those of the fleet, which is idle, and the server's."""
    with redis.Redis.from_url(server.fleet.redis_url) as client:
        return len(client.client_list())
