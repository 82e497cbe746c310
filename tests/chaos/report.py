"""The report at the end of a run."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.chaos.history import Fault, History
from tests.chaos.part import say
from tests.chaos.plan import Verdict

MOST = 20  # violations of one invariant that are printed


def report(verdict: Verdict) -> bool:
    """Prints how it went; tells whether there is nothing to complain of."""
    plan, history = verdict.plan, verdict.history
    proven = sum(fault.proven for fault in history.faults)
    say()
    _faults(history)
    _runs(history)
    with_steps = sum(accepted.steps > 0 for accepted in history.accepted.values())
    kinds = {fault.kind for fault in history.faults if fault.proven}
    say(
        f"seed {plan.seed}: {verdict.took_s:.0f} s, {len(history.accepted)} runs, {with_steps} of them with steps, "
        f"{proven} proven faults of {len(kinds)} kinds"
    )
    _violations(verdict)
    enough = proven >= plan.faults and with_steps >= plan.runs
    if not enough:
        say(
            f"NOT ENOUGH: {proven} of {plan.faults} faults are proven, {with_steps} of {plan.runs} runs with steps made"
        )
    say("all invariants held" if not verdict.violations else f"VIOLATED: {', '.join(broken(verdict))}")
    return enough and not verdict.violations


def broken(verdict: Verdict) -> list[str]:
    """Returns the names of the invariants that did not hold."""
    return sorted({violation.invariant for violation in verdict.violations})


def describe(fault: Fault) -> str:
    """Returns one line about a fault."""
    mark = "proven" if fault.proven else "NOT PROVEN"
    what = f"{fault.number:3} {fault.kind:18} {fault.running:3} running {fault.took_s:5.1f} s"
    return f"  {what}  {mark}  {fault.proof or ''}"


def _faults(history: History) -> None:
    kinds: dict[str, list[Fault]] = defaultdict(list)
    for fault in history.faults:
        kinds[fault.kind].append(fault)
    say("fault                made  proven")
    for kind, faults in sorted(kinds.items()):
        say(f"{kind:20} {len(faults):4} {sum(fault.proven for fault in faults):7}")


def _runs(history: History) -> None:
    stored = [history.final.runs[run_id] for run_id in history.accepted if run_id in history.final.runs]
    ends = Counter(run.status for run in stored)
    attempts = Counter(run.attempt for run in stored)
    peak = max((sum(sample.running.values()) for sample in history.samples), default=0)
    events = sum(map(len, history.final.events.values()))
    say(f"runs by end:         {_counts(ends)}")
    say(f"runs by attempts:    {_counts(attempts)}; {sum(run.lost_attempts for run in stored)} losses counted")
    say(f"events:              {events} stored, {sum(map(len, history.streams.values()))} streamed")
    say(f"effects:             {len(history.final.effects)} of {len(history.final.steps)} recorded steps")
    say(f"samples:             {len(history.samples)}, at most {peak} running at once")
    say(f"retried by clients:  {_counts(history.refusals)}")


def _violations(verdict: Verdict) -> None:
    if verdict.folder is None:
        return
    by_name: dict[str, list[str]] = defaultdict(list)
    for violation in verdict.violations:
        by_name[violation.invariant].append(violation.detail)
    for name, details in by_name.items():
        say(f"VIOLATED {name}: {len(details)} times")
        for detail in details[:MOST]:
            say(f"    {detail}")
    say(f"state, history and logs are in {verdict.folder}; repeat with --seed {verdict.plan.seed}")


def _counts(counts: Counter[str] | Counter[int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in sorted(counts.items(), key=lambda item: str(item[0]))) or "none"
