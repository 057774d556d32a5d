"""Each test has its own database, SQLite or PostgreSQL, its own broker, and processes that end with it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import dj_database_url
import pytest
import redis
from django.conf import settings
from django.core.management import call_command
from django.db import connection, connections
from pytest_django import DjangoDbBlocker

from lbadmin.settings import SQLITE_OPTIONS
from tests.broker import using_broker
from tests.kernel.machine import Namespace
from tests.stack.machinery import Stack, running_broker, running_postgresql, short_directory


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    with short_directory() as directory, running_postgresql(directory) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(django_db_blocker: DjangoDbBlocker) -> Iterator[Path]:
    """A database as all migrations leave it, for every test to copy."""
    with short_directory() as directory:
        path = directory / "migrated.sqlite3"
        with django_db_blocker.unblock(), using_database(f"sqlite:///{path}"):
            call_command("migrate", verbosity=0)
            with connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: str, django_db_blocker: DjangoDbBlocker) -> str:
    """The name of a database as all migrations leave it, for every test to take as its template."""
    name = "migrated"
    with django_db_blocker.unblock():
        with using_database(postgresql), connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        with using_database(_sibling(postgresql, name)):
            call_command("migrate", verbosity=0)
    return name


@pytest.fixture
def postgresql_of_tests(postgresql: str, migrated_postgresql: str, django_db_blocker: DjangoDbBlocker) -> str:
    """The server's address, where pytest --reuse-db finds its database, migrated already."""
    name = f"test_{postgresql.rpartition('/')[2]}"
    with django_db_blocker.unblock(), using_database(postgresql), connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {migrated_postgresql}")
    return postgresql


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def database_url(request: pytest.FixtureRequest, directory: Path, django_db_blocker: DjangoDbBlocker) -> str:
    """Of a new, migrated database: SQLite, or what `both_databases` asks for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        path = directory / "lbadmin.sqlite3"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        return f"sqlite:///{path}"
    template = request.getfixturevalue("migrated_postgresql")
    server, name = str(request.getfixturevalue("postgresql")), f"stack_{uuid4().hex}"
    with django_db_blocker.unblock(), using_database(server), connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return _sibling(server, name)


@pytest.fixture
def stack(database_url: str, directory: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[Stack]:
    """A migrated database, which the test shares with the processes that it starts, and a broker."""
    with (
        django_db_blocker.unblock(),
        running_broker(directory) as broker_url,
        using_database(database_url),
        using_broker(broker_url),
    ):
        client = redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://"))
        found = Stack(
            directory=directory,
            env=environment(directory=directory, database_url=database_url, broker_url=broker_url),
            broker=client,
        )
        try:
            yield found
        finally:
            found.close()
            client.close()
            print(found.logs())


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    found = Namespace()
    yield found
    found.close()


def _sibling(server: str, name: str) -> str:
    """The address of another database of the same server."""
    return f"{server.rpartition('/')[0]}/{name}"


def environment(*, directory: Path, database_url: str, broker_url: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LBADMIN_")}
    return own | {
        "LBADMIN_STATE_DIR": str(directory),
        "DATABASE_URL": database_url,
        "LBADMIN_REDIS_URL": broker_url,
        "LBADMIN_SECRET_KEY": settings.SECRET_KEY,
        "LBADMIN_SYSLOG": str(directory / "log"),
    }


@contextmanager
def using_database(url: str) -> Iterator[None]:
    """Django's default database is this one meanwhile, in every thread that starts meanwhile too."""
    config = dict(dj_database_url.parse(url))
    if config["ENGINE"].endswith("sqlite3"):
        config["OPTIONS"] = SQLITE_OPTIONS
    before, before_settings = connections["default"], connections.settings["default"]
    connections.settings["default"] = connections.configure_settings({"default": config})["default"]
    connections["default"] = connections.create_connection("default")
    try:
        yield
    finally:
        connections["default"].close()
        connections.settings["default"] = before_settings
        connections["default"] = before
