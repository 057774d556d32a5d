"""Triggers that keep history as it was written, on SQLite and PostgreSQL.

A table of APPEND_ONLY_TABLES refuses UPDATE and DELETE (and TRUNCATE), and on SQLite also REPLACE, which
deletes without firing a trigger for it. The audit events are a chain as well: an INSERT has to go on from the
last one. A further table needs a line in APPEND_ONLY_TABLES, its unique columns in UNIQUE_KEYS, and a call of
`install` at the end of the migration that makes it.
"""

from typing import Any

from django.core.exceptions import ImproperlyConfigured

APPEND_ONLY_TABLES = {
    "balancer_auditevent": "audit events are append-only",
    "balancer_revision": "revisions are immutable",
    "balancer_review": "what was reviewed is immutable",
    "balancer_emergency": "emergencies are append-only",
    "balancer_evidence": "evidence is immutable",
}
UNIQUE_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "balancer_auditevent": (("number",),),
    "balancer_revision": (("cluster_id", "number"),),
    "balancer_review": (("digest",),),
    "balancer_emergency": (),
    "balancer_evidence": (("deployment_id",),),
}
"""Beside the key: a row that REPLACE would put another one in the place of is found by these."""
CHAINED_TABLE = "balancer_auditevent"
_GENESIS = "0" * 64


def install(*, connection: Any) -> None:
    """Make the triggers of the tables that are there; those that are there already are made anew.

    A table or a column that a later migration adds has its triggers from then on.
    """
    uninstall(connection=connection)
    for table, message in APPEND_ONLY_TABLES.items():
        columns = _columns(connection, table)
        if not columns:
            continue
        _run(connection, _refusing(vendor=connection.vendor, table=table, message=message))
        if connection.vendor == "sqlite":
            _run(connection, [_no_replace(table=table, message=message, columns=columns)])
        if table == CHAINED_TABLE and "number" in columns:
            _run(connection, _chaining(vendor=connection.vendor, table=table, message=message))


def uninstall(*, connection: Any) -> None:
    for table in APPEND_ONLY_TABLES:
        _run(connection, _uninstall_statements(vendor=connection.vendor, table=table))


def _run(connection: Any, statements: list[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _columns(connection: Any, table: str) -> set[str]:
    """Empty where there is no such table yet."""
    with connection.cursor() as cursor:
        if table not in connection.introspection.table_names(cursor):
            return set()
        return {column.name for column in connection.introspection.get_table_description(cursor, table)}


def _refusing(*, vendor: str, table: str, message: str) -> list[str]:
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
    raise ImproperlyConfigured(
        f"lbadmin keeps its history on SQLite and PostgreSQL, not on {vendor}. Set DATABASE_URL."
    )


def _no_replace(*, table: str, message: str, columns: set[str]) -> str:
    """REPLACE deletes rows and fires no trigger for it (sqlite.org/lang_conflict.html)."""
    keys = [("id",), *(key for key in UNIQUE_KEYS.get(table, ()) if columns.issuperset(key))]
    same = " OR ".join(f"({' AND '.join(f'{column} = NEW.{column}' for column in key)})" for key in keys)
    # Of a new row that brings no id, NEW.id is -1 here.
    return (
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608 - all names are ours
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
        f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


def _chaining(*, vendor: str, table: str, message: str) -> list[str]:
    """An insert goes on from the last event. Its own hash audit_verify judges: SQLite has no SHA-256."""
    text = f"{message}: an event goes on from the last one"
    last = f"FROM {table} ORDER BY number DESC LIMIT 1"
    if vendor == "sqlite":
        return [
            f"CREATE TRIGGER {table}_chained BEFORE INSERT ON {table} "
            f"WHEN NEW.number IS NOT COALESCE((SELECT number {last}), 0) + 1 "
            f"OR NEW.previous IS NOT COALESCE((SELECT hash {last}), '{_GENESIS}') "
            f"BEGIN SELECT RAISE(ABORT, '{text}'); END"
        ]
    return [
        f"CREATE FUNCTION {table}_chain() RETURNS trigger LANGUAGE plpgsql AS "  # noqa: S608 - as above
        f"$$ BEGIN IF NEW.number IS DISTINCT FROM COALESCE((SELECT number {last}), 0) + 1 "
        f"OR NEW.previous IS DISTINCT FROM COALESCE((SELECT hash {last}), '{_GENESIS}') "
        f"THEN RAISE EXCEPTION '{text}' USING ERRCODE = 'integrity_constraint_violation'; END IF; "
        f"RETURN NEW; END $$",
        f"CREATE TRIGGER {table}_chained BEFORE INSERT ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_chain()",
    ]


def _uninstall_statements(*, vendor: str, table: str) -> list[str]:
    if vendor == "sqlite":
        names = ("no_update", "no_delete", "no_replace", "chained")
        return [f"DROP TRIGGER IF EXISTS {table}_{name}" for name in names]
    return [f"DROP FUNCTION IF EXISTS {table}_{name}() CASCADE" for name in ("refuse", "chain")]
