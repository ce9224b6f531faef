"""How Alembic runs the migrations: on the connection, and in the transaction, of `evals.database.migrate`."""

from alembic import context

from evals.votes_tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, transactional_ddl=True
)
with context.begin_transaction():
    context.run_migrations()
