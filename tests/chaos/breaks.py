"""Breaks on purpose what each invariant rests on, and demands that the checker says so: the table of docs/chaos.md."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos import interrupt_sabotage, interrupts
from tests.chaos.conductor import conduct
from tests.chaos.gateway_breaks import GATEWAY_BREAKS, is_found
from tests.chaos.part import say
from tests.chaos.plan import Plan, Verdict
from tests.chaos.report import broken, describe
from tests.chaos.sabotage import sabotaged
from tests.chaos.stores import Stores

DEFINITION = "SELECT pg_get_functiondef(CAST(:name AS regproc)) AS text"
SHORTEST = """
    CREATE FUNCTION chaos.one_attempt() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.max_attempts := 1; RETURN NEW; END $$;
    CREATE TRIGGER one_attempt BEFORE INSERT ON lanewise.runs FOR EACH ROW EXECUTE FUNCTION chaos.one_attempt();
    GRANT USAGE ON SCHEMA chaos TO PUBLIC;
"""


@dataclass(frozen=True)
class Break:
    """A deliberate break; those without `edits` and `script` are in `tests.chaos.sabotage`.

    Args:
        invariant: whose check must fail.
        kinds: the faults that bring it out.
        besides: invariants that cannot hold either.
        edits: text of a function in the database, and what stands there instead.
        script: executed in the database.
    """

    invariant: str
    kinds: tuple[str, ...]
    besides: frozenset[str] = frozenset()
    edits: tuple[tuple[str, str, str], ...] = ()
    script: str = ""

    def prepare(self, stores: Stores) -> None:
        """Breaks what is in the database."""
        for name, old, new in self.edits:
            text = str(stores.rows(DEFINITION, name=f"lanewise.{name}")[0].text)
            if old not in text:
                raise LookupError(f"{name} has no {old!r} any more: break it otherwise")
            stores.run_script(text.replace(old, new).replace("%", "%%"))
        if self.script:
            stores.run_script(self.script)


GENTLE = ("redis.cut", "api.worker.kill")
BREAKS: dict[str, Break] = {
    "no-last-event": Break(
        "ends",
        GENTLE,
        edits=(("end_run", "append_events(p_events)", "append_events(p_events - (jsonb_array_length(p_events) - 1))"),),
    ),
    "no-fence": Break(
        "ends",
        ("worker.stop",),
        frozenset({"reasons"}),  # Postgres refuses what the old attempt writes, and now that counts
        edits=(
            ("claim_run", "AND r.attempt = p_attempt AND r.status = 'queued'", ""),
            ("end_run", "AND r.attempt = p_attempt AND r.status = p_from", ""),
            ("append_events", "AND l.attempt = b.attempt", ""),
            ("append_events", "WHERE l.status = 'running' OR", "WHERE true OR"),
        ),
    ),
    "no-recovery": Break("ends", ("worker.kill",), frozenset({"limits", "slots", "successes"})),
    "never-sent-again": Break("ends", ("message.remove",), frozenset({"slots", "successes"})),
    "keys-forgotten": Break("keys", GENTLE),
    "numbers-skip": Break(
        "numbers",
        GENTLE,
        edits=(("append_events", "r.last_run_seq + p.events", "r.last_run_seq + p.events + 1"),),
    ),
    "events-renumbered": Break("streams", GENTLE),
    "steps-apart": Break("effects", ("sandbox.kill",)),
    "limits-ignored": Break("limits", GENTLE),
    "slots-kept": Break("slots", GENTLE, frozenset({"ends", "successes"})),
    "users-forgotten": Break("canaries", GENTLE, frozenset({"streams"})),
    "agents-fail": Break("successes", GENTLE, frozenset({"reasons"})),
    "one-attempt": Break("reasons", ("sandbox.kill",), script=SHORTEST),
    "outage-is-an-error": Break("answers", ("postgres.restart", "postgres.cut")),
}


def run(names: Sequence[str], seed: int) -> bool:
    """Makes a short run with each of the breaks; tells whether each was found by the check of its invariant."""
    invariants = {name: broken_by.invariant for name, broken_by in BREAKS.items()}
    invariants |= {name: broken_by.invariant or "(control)" for name, broken_by in GATEWAY_BREAKS.items()}
    invariants |= dict.fromkeys(interrupt_sabotage.PATCHES, "foreign")
    invariants |= dict.fromkeys(interrupt_sabotage.CONTROLS, "(control)")
    found = {name: _is_found(name, seed) for name in names or invariants}
    say("\nbreak                  invariant  as it must be")
    for name, well in found.items():
        say(f"{name:22} {invariants[name]:10} {'yes' if well else 'NO'}")
    return all(found.values())


def _is_found(name: str, seed: int) -> bool:
    if name in interrupt_sabotage.PATCHES:
        return interrupts.is_found(name, seed)
    return is_found(name, seed) if name in GATEWAY_BREAKS else _found(name, BREAKS[name], seed)


def make(name: str, broken_by: Break, seed: int) -> Verdict:
    """Makes a short run with something broken."""
    with sabotaged("tests.chaos.sabotage", name) as env:
        plan = Plan(
            seed,
            users=8,
            runs=80,
            faults=4,
            kinds=broken_by.kinds,
            pause_s=(0.5, 1.5),
            nemesis_s=40,
            pace_s=0.5,
            stuck_s=12,
            env=env,
            prepare=broken_by.prepare,
        )
        return conduct(plan, lambda fault: say(describe(fault)))


def _found(name: str, broken_by: Break, seed: int) -> bool:
    say(f"break {name}: {broken_by.invariant} must fail")
    verdict = make(name, broken_by, seed)
    names = set(broken(verdict))
    for invariant in sorted(names):
        first = next(v.detail for v in verdict.violations if v.invariant == invariant)
        say(f"    {invariant}: {sum(v.invariant == invariant for v in verdict.violations)} times, e.g. {first}")
    well = broken_by.invariant in names and names <= {broken_by.invariant} | broken_by.besides
    if well and verdict.folder is not None:
        shutil.rmtree(verdict.folder)
    say(f"    {verdict.took_s:.0f} s: " + ("found" if well else f"NOT FOUND, or not alone; state in {verdict.folder}"))
    return well
