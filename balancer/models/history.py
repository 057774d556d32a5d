"""Triggers that keep audit events and revisions as they were written, on SQLite and PostgreSQL."""

from typing import Any

APPEND_ONLY_TABLES = {
    "balancer_auditevent": "audit events are append-only",
    "balancer_revision": "revisions are immutable",
    "balancer_review": "what was reviewed is immutable",
}


def install(*, connection: Any) -> None:
    """Make the triggers of the tables that are there; triggers that are there already are made anew."""
    uninstall(connection=connection)
    with connection.cursor() as cursor:
        there = set(connection.introspection.table_names(cursor))
    for table, message in APPEND_ONLY_TABLES.items():
        if table not in there:
            continue  # an early migration, or a late one that goes backwards
        _run(connection, _install_statements(vendor=connection.vendor, table=table, message=message))


def uninstall(*, connection: Any) -> None:
    for table in APPEND_ONLY_TABLES:
        _run(connection, _uninstall_statements(vendor=connection.vendor, table=table))


def _run(connection: Any, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _install_statements(*, vendor: str, table: str, message: str) -> list[str]:
    if vendor == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{deed} BEFORE {deed.upper()} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            for deed in ("update", "delete")
        ]
    if vendor == "postgresql":
        # TRUNCATE fires no row trigger, so it has its own.
        return [
            f"CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = 'integrity_constraint_violation'; END $$",
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_refuse()",
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuse()",
        ]
    raise NotImplementedError(f"lbadmin keeps its history on SQLite and PostgreSQL, not on {vendor}.")


def _uninstall_statements(*, vendor: str, table: str) -> list[str]:
    if vendor == "sqlite":
        return [f"DROP TRIGGER IF EXISTS {table}_no_{deed}" for deed in ("update", "delete")]
    return [f"DROP FUNCTION IF EXISTS {table}_refuse() CASCADE"]
