"""A plain `def` that computes: blocking is fine, it has a process of its own. It looks whether it is cancelled."""

from lanewise import Agent, AgentRun, UserExecutionContext
from pydantic import BaseModel, Field

BLOCK = 1000


class UpTo(BaseModel):
    limit: int = Field(ge=2, le=10_000_000)


class Primes(Agent):
    """Counts the primes below a number."""

    name = "primes"
    Input = UpTo
    time_limit_s = 120

    def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, int]:
        found: list[int] = []
        for start in range(2, run.input.limit, BLOCK):
            if run.cancelled:  # without this look the run would be ended by force, some seconds later
                run.emit.thinking(f"stopping at {start}")
                break
            for number in range(start, min(start + BLOCK, run.input.limit)):
                if is_prime(number, found):
                    found.append(number)
            run.emit.progress(start / run.input.limit, f"{len(found)} primes below {start + BLOCK}")
        return {"primes": len(found), "largest": found[-1]}


def is_prime(number: int, smaller: list[int]) -> bool:
    for prime in smaller:
        if number % prime == 0:
            return False
        if prime * prime > number:
            break
    return True
