"""Alembic's folder: `versions/` holds the steps, in order; `shared.migrate` runs them."""
