"""What migrations made of a database: everything that it enforces, and the rows that it starts with."""

from collections.abc import Iterator
from typing import Any

from django.contrib.auth.models import Group, Permission
from django.db import connection

_SQLITE = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_POSTGRESQL = {
    "columns": "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,"
    " column_default, identity_generation FROM information_schema.columns WHERE table_schema = 'public'",
    "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    " WHERE connamespace = 'public'::regnamespace",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
}


def schema() -> dict[str, set[Any]]:
    """By kind. The order of a table's columns and constraints is left out: nothing of ours rests on it."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(_SQLITE)
            return {"parts": {part for row in cursor.fetchall() for part in _parts(*row)}}
        found = {}
        for kind, query in _POSTGRESQL.items():
            cursor.execute(query)
            found[kind] = set(cursor.fetchall())
        return found


def roles() -> dict[str, set[tuple[str, ...]]]:
    """What each group may, and under "" every permission that there is, with its name."""
    names = ("content_type__app_label", "content_type__model", "codename", "name")
    of_groups = {one.name: set(one.permissions.values_list(*names)) for one in Group.objects.all()}
    return of_groups | {"": set(Permission.objects.values_list(*names))}


def _parts(kind: str, name: str, table: str, sql: str | None) -> Iterator[tuple[str, ...]]:
    """A table as its columns and constraints, anything else as a whole."""
    if kind != "table" or sql is None:
        yield kind, name, table, sql or ""
        return
    yield kind, name
    depth, part = 0, ""
    for character in sql[sql.index("(") + 1 : sql.rindex(")")]:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield kind, name, part.strip()
            part = ""
        else:
            part += character
    yield kind, name, part.strip()
