"""Messages and frames on their whole way through a worker, over real Postgres and Redis; only the sandbox is ours."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import ClassVar, cast

from structlog.testing import capture_logs

from shared.messages import RunMessage
from shared.services import Services
from tests.fuzz import frames
from tests.fuzz.codec import sign
from tests.fuzz.mutation import Mutator
from tests.fuzz.tally import ACCEPTED, Tally
from tests.nodes import Node
from tests.services import an_agent, grant_run, submit_run
from tests.steps import stored
from worker.zygote_client import SandboxProcess, ZygoteClient


class Forger:
    """Stands where the zygote is: each sandbox that it gives has said what was to be said next."""

    agents: ClassVar = [{name: getattr(an_agent(), name) for name in
               ("name", "description", "input_schema", "queue", "time_limit_s", "max_attempts")}]  # fmt: skip
    restarts = 0

    def __init__(self) -> None:
        self.next: list[bytes] = []
        self._ends: list[socket.socket] = []

    def fork(self, notify: Callable[[], None]) -> SandboxProcess:
        """Gives one."""
        del notify
        self.hang_up()
        sandbox, far = frames.hostile_sandbox(self.next)
        self._ends.append(far)
        return sandbox

    def kill(self, sandbox: SandboxProcess, signum: int) -> None:
        """Ends it."""
        del signum
        sandbox.exited.set()

    def hang_up(self) -> None:
        """Closes what is left of the last one."""
        while self._ends:
            self._ends.pop().close()


def fuzz_runs(tally: Tally, services: Services, seed: int, inputs: int) -> None:
    """Makes so many runs: some with a message that says something else than it should, most with odd frames."""
    mutator, forger = Mutator(f"runs {seed}"), Forger()
    with Node.start(services, cast("ZygoteClient", forger)) as node:
        for number in range(inputs):
            # A user each: a run that is to be tried again keeps a slot.
            run = submit_run(services, f"user-{seed}-{number}")
            message = grant_run(services, run)
            odd = mutator.maybe(0.4)
            forger.next = [frames.odd_frame(mutator) for _ in range(mutator.chance.choice((1, 4, 10)))]
            text = _odd_message(mutator, message, services) if odd else message.encode(services.signer)
            with capture_logs() as said:
                try:
                    node.parts.runner.execute(text)
                except Exception as error:  # noqa: BLE001 - that is what is looked for
                    tally.find("run", repr(error), (text, forger.next))
            errors = [line for line in said if line["log_level"] in {"error", "critical"}]
            if errors:
                tally.find("run", repr(errors), (text, forger.next))
            after = stored(services.database, run)
            taken = after.attempt > 0
            tally.count("run", f"{ACCEPTED} {after.status}" if taken else "not taken")
        forger.hang_up()


def _odd_message(mutator: Mutator, message: RunMessage, services: Services) -> str:
    sound = {"context": message.context.to_dict(), "attempt": message.attempt}
    changed = {**sound, "attempt": mutator.odd()} if mutator.maybe(0.3) else mutator.value(sound)
    return sign(mutator.text(changed).encode(errors="surrogatepass"), mutator, services.signer)
