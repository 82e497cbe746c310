"""What a sandbox could still do to others by SQL: become the owner, drop its policies, lock a table."""

from importlib.resources import files

from alembic import op

revision = "0008"
down_revision = "0007"

# `DROP OWNED BY` a role drops the policies that name it, and a sandbox may say that of its own. Those of PUBLIC stay;
# who may touch the tables at all is a matter of grants.
POLICIES = """
DROP POLICY run ON documents;
CREATE POLICY run ON documents FOR SELECT USING (user_id = (SELECT run_user()));
DROP POLICY run ON document_passages;
CREATE POLICY run ON document_passages USING (user_id = (SELECT run_user()));
GRANT EXECUTE ON FUNCTION run_user TO lanewise_service;
"""

# A path without pg_temp looks there first: a function that runs as the owner would take a sandbox's view for our table.
PATHS = """
DO $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN SELECT oid FROM pg_proc WHERE pronamespace = 'lanewise'::regnamespace LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = lanewise, pg_temp', made);
    END LOOP;
END $$;
ALTER VIEW serving SET (security_invoker = true);
"""

GRANTS = """
REVOKE DELETE ON document_passages FROM lanewise_run;
REVOKE EXECUTE ON FUNCTION clear_own_passages FROM PUBLIC;
GRANT EXECUTE ON FUNCTION clear_own_passages TO lanewise_run;
"""


def upgrade() -> None:
    """Makes everything."""
    op.execute((files("shared.migrations") / "sql" / "0008" / "clear_own_passages.sql").read_text())
    for part in (POLICIES, PATHS, GRANTS):
        op.execute(part)
