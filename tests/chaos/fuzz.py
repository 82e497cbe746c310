"""The part `fuzz`: odd requests, messages and frames by the hundred thousand, taken or refused as documented."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import structlog

from shared.services import Services
from tests.chaos.part import Options, say
from tests.fuzz.codec import fuzz_codec
from tests.fuzz.frames import fuzz_frames
from tests.fuzz.rest import fuzz_http, fuzz_rest, is_healthy
from tests.fuzz.runs import fuzz_runs
from tests.fuzz.stream import fuzz_messages, fuzz_sockets
from tests.fuzz.tally import Tally
from tests.integration.api.conftest import Fleet, errors_in, make_fleet, make_home
from tests.plain import get
from tests.services import Servers

QUEUED_RUNS = 40  # of a user: what is submitted here is never run
WARM_UP = 1_000_000  # added to the seed
GROWTH_MB = 64.0  # of a process within one kind of inputs: more is taken for a leak
# Else nearly all was refused at the first check, and nothing behind it was reached.
LEAST_ACCEPTED = {
    "context": 0.2, "message.signed": 0.15, "message.changed": 0.01, "frame.end": 0.2, "frame.call": 0.3, "run": 0.3,
    "message.hello": 0.05, "message": 0.05, "socket.frame": 0.3, "rest.both": 0.25, "rest.user": 0.15, "http": 0.15,
}  # fmt: skip
INPUTS = (
    "context", "message.signed", "message.changed", "frame", "run", "message.hello", "message", "socket.frame", "http",
)  # fmt: skip


@dataclass(frozen=True)
class Amounts:
    """How many inputs of each kind at least; of `runs`, runs."""

    codec: int
    frames: int
    messages: int
    runs: int
    sockets: int
    http: int
    rest: int


LONG = Amounts(codec=100_000, frames=90_000, messages=30_000, runs=800, sockets=5_000, http=2_000, rest=21_500)


def run(options: Options) -> bool:
    """Makes all of them; tells whether nothing was found, and enough was accepted."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    say(f"fuzz: seed {options.seed}")
    began = time.monotonic()
    with Servers.start() as servers:
        tally = conduct(servers, options.seed, LONG, say)
    structlog.reset_defaults()
    say(tally.report())
    requests = tally.inputs(*(kind for kind in tally.ends if kind.startswith("rest.")))
    say(f"{requests} requests by the document, {tally.inputs(*INPUTS)} other inputs")
    say(f"seed {options.seed}: {time.monotonic() - began:.0f} s")
    for problem in too_little(tally):
        say(problem)
    return not (tally.findings or too_little(tally))


def conduct(servers: Servers, seed: int, amounts: Amounts, tell: Callable[[str], None] = lambda _: None) -> Tally:
    """Makes so many inputs of each kind over stores of its own, and returns what became of them.

    Args:
        tell: is told how it goes.
    """
    tally, own = Tally(tell), psutil.Process()

    def make(kind: str, process: psutil.Process, amount: int, maker: Callable[[int, int], None]) -> None:
        maker(seed + WARM_UP, amount // 10)  # what is loaded and kept once is no leak
        with tally.bounded(kind, process, GROWTH_MB):
            maker(seed, amount)

    make("codec", own, amounts.codec, partial(fuzz_codec, tally))
    make("frames", own, amounts.frames, partial(fuzz_frames, tally))
    with servers.new_database() as name, closing(Services.open(servers.settings(name))) as services:
        make("runs", own, amounts.runs, partial(fuzz_runs, tally, services))
    with make_home(servers, user_queued_runs=QUEUED_RUNS) as home:
        make("messages", own, amounts.messages, partial(fuzz_messages, tally, home.app))
    with _fleet(servers, tally) as fleet:
        api = psutil.Process(fleet.server.process.pid)
        make("sockets (the api)", api, amounts.sockets, partial(fuzz_sockets, tally, fleet.server))
        make("http (the api)", api, amounts.http, partial(fuzz_http, tally, fleet.server))
        if amounts.rest:
            document = get(f"{fleet.server.url}/openapi.json").json()
            make("rest (the api)", api, amounts.rest, partial(fuzz_rest, tally, fleet, document))
    return tally


@contextmanager
def _fleet(servers: Servers, tally: Tally) -> Iterator[Fleet]:
    """Yields a real api; afterwards it must serve as before, and its log must tell of no error."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "api.log"
        try:
            with make_fleet(servers, log, {"USER_QUEUED_RUNS": str(QUEUED_RUNS)}) as fleet:
                yield fleet
                if not is_healthy(fleet.server):
                    tally.find("api", "it does not serve as before", "all of it")
        except AssertionError as error:  # also that there are errors in its log
            tally.find("api", repr(error), [line[-500:] for line in errors_in(log)])


def too_little(tally: Tally) -> list[str]:
    """Returns of which kinds too few were accepted for the rest to prove much."""
    shares = {kind: tally.accepted(kind) / max(1, tally.inputs(kind)) for kind in LEAST_ACCEPTED if kind in tally.ends}
    return [
        f"of {kind} only {share:.1%} were accepted" for kind, share in shares.items() if share < LEAST_ACCEPTED[kind]
    ]
