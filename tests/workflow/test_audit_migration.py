"""An old database becomes what a new one is, and its history, from before the chain, is taken into it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import IntegrityError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

from balancer.models import AuditEvent
from balancer.workflow.history import verify_history
from tests.schema import roles, schema

SQUASHED = ("balancer", "0001_squashed_0023_leaving")
Migrate = Callable[[str | None], Any]


@pytest.mark.django_db(transaction=True)
def test_a_database_from_before_the_chain_becomes_what_a_new_one_is_and_its_events_are_chained_in_their_order(
    migrate: Migrate,
) -> None:
    new = schema()
    call_command("migrate", verbosity=0)  # whatever the test before has emptied, all permissions are there
    permissions = roles()
    Group.objects.all().delete()
    ContentType.objects.filter(app_label="balancer").delete()
    migrate(None)
    old = migrate("0004_node_enabled").get_model("balancer", "AuditEvent")
    for n in range(3):
        old.objects.create(at="2026-01-01T00:00:00Z", actor_name="ann", action=f"test.{n}", facts={"n": n})
    with pytest.raises(IntegrityError):
        old.objects.filter(action="test.1").update(action="test.9")

    call_command("migrate", verbosity=0)

    assert schema() == new
    assert roles() == permissions
    assert list(AuditEvent.objects.order_by("number").values_list("number", "action", "source")) == [
        (1, "test.0", ""),
        (2, "test.1", ""),
        (3, "test.2", ""),
    ]
    assert verify_history().fault is None
    with pytest.raises(IntegrityError):
        AuditEvent.objects.update(action="test.9")


@pytest.fixture
def migrate(transactional_db: None) -> Iterator[Migrate]:
    """Goes to one of the migrations that were squashed, or back to none, and returns its models.

    Afterwards the newest one is back: Django goes on with them where a database has some of them.
    """

    def go(name: str | None) -> Any:
        executor = MigrationExecutor(connection)
        executor.loader = MigrationLoader(connection, replace_migrations=False)
        replaced = executor.loader.replacements[SQUASHED].replaces
        executor.loader.graph.remove_replacement_node(SQUASHED, replaced)
        executor.migrate([("balancer", name)])
        return executor.loader.project_state([("balancer", name)] if name else []).apps

    yield go
    call_command("migrate", verbosity=0)
