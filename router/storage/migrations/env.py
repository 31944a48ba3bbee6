"""Alembic's entry: runs the migrations on the connection that `router.storage.migrate` gives it."""

from alembic import context

from router.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite can't alter most of a table: it is copied instead
)
context.run_migrations()
