"""A history from before the chain is taken into it."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection
from django.db.migrations.executor import MigrationExecutor

from balancer.models import AuditEvent
from balancer.workflow.history import verify_history


@pytest.mark.django_db(transaction=True)
def test_events_from_before_the_chain_are_chained_in_their_order(
    migrate: Callable[[str], Any],
) -> None:
    old = migrate("0004_node_enabled").get_model("balancer", "AuditEvent")
    for n in range(3):
        old.objects.create(at="2026-01-01T00:00:00Z", actor_name="ann", action=f"test.{n}", facts={"n": n})
    with pytest.raises(IntegrityError):
        old.objects.filter(action="test.1").update(action="test.9")

    migrate("0005_audit_chain")

    assert list(AuditEvent.objects.order_by("number").values_list("number", "action", "source")) == [
        (1, "test.0", ""),
        (2, "test.1", ""),
        (3, "test.2", ""),
    ]
    assert verify_history().fault is None
    with pytest.raises(IntegrityError):
        AuditEvent.objects.update(action="test.9")


@pytest.fixture
def migrate(transactional_db: None) -> Any:
    """Goes to a migration of balancer and returns its models; afterwards the newest one is back."""

    def go(name: str) -> Any:
        MigrationExecutor(connection).migrate([("balancer", name)])
        return MigrationExecutor(connection).loader.project_state([("balancer", name)]).apps

    yield go
    call_command("migrate", verbosity=0)
