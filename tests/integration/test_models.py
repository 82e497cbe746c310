"""The models are what the migrations made, and what the migrations made keeps the walls between users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from shared.models import SCHEMA, Base

# Tables that no model stands for: Alembic's own, keys that only functions in the database read, and one number.
WITHOUT_MODEL = {"alembic_version", "token_keys", "audit_retention"}
TABLES_WITH_USER = """
    SELECT c.oid, c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced FROM pg_class c
    WHERE c.relnamespace = 'lanewise'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'm', 'v') AND EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'user_id' AND NOT a.attisdropped)
"""


def test_the_migrated_schema_is_the_models(superuser: sa.Connection) -> None:
    def of_ours(name: str | None, kind: str, _parents: object) -> bool:
        return name == SCHEMA if kind == "schema" else not (kind == "table" and name in WITHOUT_MODEL)

    context = MigrationContext.configure(
        superuser,
        opts={
            "include_schemas": True, "include_name": of_ours, "version_table_schema": SCHEMA,
            "compare_type": True, "compare_server_default": True,
        },
    )  # fmt: skip
    assert compare_metadata(context, Base.metadata) == []


def test_every_table_with_a_user_forces_row_level_security(superuser: sa.Connection) -> None:
    rows = superuser.execute(sa.text(TABLES_WITH_USER)).all()
    forced = {row.relname: row.forced for row in rows}
    assert {"runs", "run_events", "threads", "documents", "audit_log"} <= forced.keys()
    assert [name for name, is_forced in forced.items() if not is_forced] == []


def test_every_unique_key_of_a_user_table_begins_with_the_user(superuser: sa.Connection) -> None:
    """A key without the user would tell by its violation what other users have."""
    tables = [row.oid for row in superuser.execute(sa.text(TABLES_WITH_USER))]
    rows = superuser.execute(
        sa.text("""
            SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = ANY(:tables) AND i.indisunique AND a.attname <> 'user_id'
        """),
        {"tables": tables},
    ).all()
    # The ids of the audit trail are made by the service, half of them by chance: nobody can try a value.
    assert [tuple(row) for row in rows] == [("lanewise.audit_log", "lanewise.audit_log_pkey")]


def test_every_foreign_key_of_a_user_table_begins_with_the_user(superuser: sa.Connection) -> None:
    tables = [row.oid for row in superuser.execute(sa.text(TABLES_WITH_USER))]
    rows = superuser.execute(
        sa.text("""
            SELECT conrelid::regclass::text, conname FROM pg_constraint c
            JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
            JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
            WHERE c.conrelid = ANY(:tables) AND contype = 'f' AND NOT (a.attname = 'user_id' AND b.attname = 'user_id')
        """),
        {"tables": tables},
    ).all()
    assert rows == []


def test_every_view_asks_with_the_rights_of_who_looks(superuser: sa.Connection) -> None:
    views = "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'lanewise'::regnamespace AND relkind = 'v'"
    found = {row.relname: row.reloptions or [] for row in superuser.execute(sa.text(views))}
    assert found
    assert [name for name, options in found.items() if "security_invoker=true" not in options] == []


def test_no_policy_names_the_run_role(superuser: sa.Connection) -> None:
    """A sandbox could drop it, by `DROP OWNED BY` its own role."""
    rows = superuser.execute(
        sa.text("""
            SELECT polrelid::regclass::text, polname FROM pg_policy
            WHERE polrelid::regclass::text LIKE 'lanewise.%' AND 'lanewise_run'::regrole = ANY (polroles)
        """)
    ).all()
    assert rows == []


def test_no_role_of_ours_goes_round_the_policies(superuser: sa.Connection) -> None:
    rows = superuser.execute(
        sa.text("""
            SELECT rolname FROM pg_roles WHERE rolname LIKE 'lanewise%'
            AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)
        """)
    ).all()
    assert rows == []
    members = superuser.execute(
        sa.text("""
            SELECT m.member::regrole::text, m.roleid::regrole::text, m.set_option FROM pg_auth_members m
            WHERE m.member::regrole::text LIKE 'lanewise%'
        """)
    ).all()
    # It may end the sessions of sandboxes, and cannot become one of them.
    assert [tuple(row) for row in members] == [("lanewise_owner", "lanewise_run", False)]


def test_the_run_role_has_only_what_it_needs(superuser: sa.Connection) -> None:
    tables = superuser.execute(
        sa.text("""
            SELECT c.relname, p.privilege FROM pg_class c
            CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER'])
                AS p (privilege)
            WHERE c.relnamespace = 'lanewise'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                AND (has_table_privilege('lanewise_run', c.oid, p.privilege)
                    OR p.privilege IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
                    AND has_any_column_privilege('lanewise_run', c.oid, p.privilege))
        """)
    ).all()
    passages = {("document_passages", privilege) for privilege in ("SELECT", "INSERT")}
    assert {tuple(row) for row in tables} == {("documents", "SELECT"), *passages}
    functions = superuser.scalars(
        sa.text("""
            SELECT proname FROM pg_proc WHERE pronamespace = 'lanewise'::regnamespace
            AND has_function_privilege('lanewise_run', oid, 'EXECUTE')
        """)
    ).all()
    assert set(functions) == {"run_user", "record_own_step", "clear_own_passages"}
    assert not superuser.scalar(sa.text("SELECT has_schema_privilege('lanewise_run', 'lanewise', 'CREATE')"))


def test_the_service_role_only_reads_the_audit_trail_and_reads_no_keys(superuser: sa.Connection) -> None:
    def may(table: str) -> set[str]:
        privileges = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
        query = sa.text("SELECT has_table_privilege('lanewise_service', :table, :privilege)")
        return {p for p in privileges if superuser.scalar(query, {"table": f"lanewise.{table}", "privilege": p})}

    for table in ("audit_log", "audit_seals", "audit_anchors", "audit_retention"):
        assert may(table) == {"SELECT"}
    assert may("token_keys") == set()
    assert may("alembic_version") <= {"SELECT"}


def test_every_function_is_pinned_and_closed(superuser: sa.Connection) -> None:
    """Those with the caller's rights too: a function with the owner's may call them."""
    rows = superuser.execute(
        sa.text("""
            SELECT proname FROM pg_proc p WHERE pronamespace = 'lanewise'::regnamespace AND (
                NOT coalesce(array_to_string(proconfig, ',') LIKE '%search_path=lanewise, pg_temp%', false)
                OR EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0))
        """)
    ).all()
    assert rows == []
