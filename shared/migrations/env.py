"""Called by Alembic with the connection that `shared.migrate` opened, already acting as the owner."""

from alembic import context

from shared.models import SCHEMA, Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, version_table_schema=SCHEMA)
context.run_migrations()
