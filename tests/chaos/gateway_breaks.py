"""Breaks of event delivery, each in a story that brings it out; beside them controls, which must be harmless."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.audience import Size
from tests.chaos.gateways import Gateways
from tests.chaos.part import say
from tests.chaos.sabotage import sabotaged
from tests.chaos.story import Plot, Teller

QUIET: dict[str, Any] = {"users": 2, "size": Size(cuts=0), "faults": 0, "silences": (), "trims": False, "talks": False}
LATE = frozenset({"late", "lost", "enough"})


@dataclass(frozen=True)
class GatewayBreak:
    """A deliberate break; what it does is in `tests.chaos.gateway_sabotage`.

    Args:
        invariant: whose check must fail; None: a control, all must hold.
        silences: that bring it out.
        besides: invariants that cannot hold either.
        plot: what else is not quiet in the story.
    """

    invariant: str | None
    silences: tuple[str, ...] = ("published",)
    besides: frozenset[str] = LATE
    plot: dict[str, Any] = field(default_factory=dict)


BUSY: dict[str, Any] = {"kinds": ("gateway.cut",), "faults": 10, "talks": True, "size": Size(sockets=4, cuts=4)}
GATEWAY_BREAKS: dict[str, GatewayBreak] = {
    "served-unsubscribed": GatewayBreak("lost"),
    "no-repair": GatewayBreak("lost", ("gap",)),
    "no-sweep": GatewayBreak("lost", ("unpublished",)),
    "reconnect-is-no-gap": GatewayBreak("lost", ("subscriptions killed",)),
    "doubles-written": GatewayBreak("doubled", plot=BUSY),
    "order-of-arrival": GatewayBreak("order", ("overtaken",), LATE | {"doubled"}),
    "wrong-channel": GatewayBreak("foreign", besides=LATE | {"changed"}),
    "overflow-dropped": GatewayBreak("lost", ("flood",)),
    "replay-one-early": GatewayBreak("lost", ("cut",), LATE | {"order"}),
    "memory-one-short": GatewayBreak("lost", ("cut",), LATE | {"order"}),
    "other-content": GatewayBreak("changed"),
    "all-trimmed": GatewayBreak("told", ("cut",)),
    "none-trimmed": GatewayBreak("lost", besides=LATE | {"order", "told"}, plot={"trims": True}),
    "not-published": GatewayBreak(None, ("unpublished", "gap", "flood")),
    "sweep-only-when-woken": GatewayBreak(None, ("published", "subscriptions killed")),
    "no-memory": GatewayBreak(None, ("cut",)),
    "slow-catch-up": GatewayBreak(None, plot=BUSY),
}


def is_found(name: str, seed: int) -> bool:
    """Tells a story with something broken; tells whether the check of its invariant found it, or a control passed."""
    broken_by = GATEWAY_BREAKS[name]
    say(f"break {name}: {broken_by.invariant or 'nothing'} must fail")
    plot = Plot(f"break {seed} {name}", **(QUIET | broken_by.plot | {"silences": broken_by.silences}))
    with (
        sabotaged("tests.chaos.gateway_sabotage", name) as env,
        Gateways.start(workers=1, slots=6, env=env) as gateways,
    ):
        story = Teller(gateways, plot).run()
    broken = {invariant for invariant, _ in story.violations}
    for invariant in sorted(broken):
        say(f"    {invariant}: {next(detail for name, detail in story.violations if name == invariant)}")
    if broken_by.invariant is None:
        return not broken
    return broken_by.invariant in broken and broken <= {broken_by.invariant} | broken_by.besides
