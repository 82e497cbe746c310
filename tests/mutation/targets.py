"""What is mutated, and the tests of each that have to notice: fast ones first, for the first failure ends a trial."""

from __future__ import annotations

UNIT, STORES, API = "tests/unit", "tests/integration", "tests/integration/api"

TARGETS: dict[str, tuple[str, ...]] = {
    # Context
    "shared/context.py": (f"{UNIT}/test_context.py",),
    "shared/jsonvalue.py": (f"{UNIT}/test_jsonvalue.py", f"{UNIT}/test_context.py"),
    "shared/signing.py": (f"{UNIT}/test_signing.py",),
    "shared/messages.py": (f"{UNIT}/test_messages.py",),
    # Permission
    "shared/grants.py": (f"{STORES}/test_grants.py",),
    "worker/tooling.py": (f"{UNIT}/test_worker_tooling.py",),
    "worker/toolscope.py": (f"{UNIT}/test_worker_tooling.py", f"{UNIT}/test_worker_toolcalls.py"),
    "api/auth.py": (f"{API}/test_auth.py",),
    # Semaphore
    "shared/slots.py": (f"{STORES}/test_slots.py",),
    "shared/lua/acquire.lua": (f"{STORES}/test_slots.py",),
    "shared/lua/renew.lua": (f"{STORES}/test_slots.py",),
    "shared/lua/restore.lua": (f"{STORES}/test_slots.py",),
    # Token
    "shared/tokens.py": (f"{UNIT}/test_tokens.py",),
    "api/gateway/tickets.py": (f"{API}/test_tickets.py",),
    "shared/migrations/sql/0001/run_user.sql": (f"{STORES}/test_rls.py",),
}
