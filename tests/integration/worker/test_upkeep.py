"""The audit trail's upkeep: every worker seals, whatever the leader waits for."""

from __future__ import annotations

import sqlalchemy as sa

from lanewise.process import wait_until
from shared.models import AuditEntry
from shared.services import Services
from tests.nodes import Node, age_worker, metric
from tests.services import OpenServices, start_run, submit_run
from worker.upkeep import SEAL_EVERY_S, AuditSealing

WITHIN_S = 5.0  # as promised


def seals(services: Services) -> list[int | None]:
    with services.database.system_session() as session:
        return list(session.scalars(sa.select(AuditEntry.seal).order_by(AuditEntry.id)))


def test_whichever_worker_is_first_seals_what_is_new(open_services: OpenServices) -> None:
    services, sealing = open_services(), [AuditSealing(open_services()) for _ in range(2)]
    submit_run(services)
    sealing[0].tick()
    submit_run(services)
    assert seals(services) == [1, None]
    sealing[1].tick()
    sealing[0].tick()
    assert seals(services) == [1, 2]
    assert metric("lanewise_audit_seal") == 2


def test_records_are_sealed_in_time_while_the_leader_waits_for_rows(node: Node, superuser: sa.Connection) -> None:
    """Of a worker that died, each run's row is held by somebody: the sweep waits for one after the other."""
    superuser.execute(
        sa.text("INSERT INTO lanewise.workers (id, name, agents, queues, slots) VALUES ('d', 'd', '{}', '{}', 1)")
    )
    lost = [start_run(node.services, node.submit("echo", user_id=f"user-{n}"), "d") for n in range(14)]
    age_worker(superuser, "d", node.services.settings.lease_s + 1)
    superuser.exec_driver_sql("BEGIN")
    superuser.execute(
        sa.text("SELECT FROM lanewise.runs WHERE id = ANY (:ids) FOR UPDATE"), {"ids": [r.id for r in lost]}
    )
    node.parts.leader.start()
    node.parts.sealing.start()
    assert wait_until(lambda: None not in seals(node.services), WITHIN_S)
    submit_run(node.services, "late")
    assert wait_until(lambda: None not in seals(node.services), WITHIN_S)
    assert {run.status for run in map(node.now, lost)} == {"running"}, "the leader did not wait: nothing is shown"
    superuser.exec_driver_sql("ROLLBACK")
    node.parts.leader.stop()
    node.parts.sealing.stop()


def test_sealing_is_begun_by_each_worker_with_time_to_spare() -> None:
    assert SEAL_EVERY_S <= WITHIN_S / 2
