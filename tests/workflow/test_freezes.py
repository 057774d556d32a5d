"""Times in which nothing is applied."""

from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.models import Change, Cluster, Freeze
from balancer.workflow.deployments import apply_change
from balancer.workflow.errors import Invalid
from balancer.workflow.freezes import declare_freeze, lift_freeze
from balancer.workflow.rollback import roll_back_to
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import refusal_of

HOUR = timedelta(hours=1)


@pytest.fixture
def change(site: Site) -> Change:
    """Approved, with a service live already."""
    site.deploy(service_data("web"))
    return site.approved(service_data("web", scheduler="random"))


def freeze_now(site: Site, administrator: User, cluster: Cluster | None) -> Freeze:
    now = timezone.now()
    return declare_freeze(
        actor=administrator, cluster=cluster, starts_at=now - HOUR, ends_at=now + HOUR, reason="Audit."
    )


@pytest.mark.parametrize("everywhere", [True, False])
def test_in_a_freeze_nothing_is_applied_no_rollback_either_until_it_is_lifted(
    site: Site, administrator: User, everywhere: bool
) -> None:
    first = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    freeze = freeze_now(site, administrator, None if everywhere else site.cluster)
    back = site.approve(roll_back_to(actor=site.operator, revision=first))

    refusal = refusal_of(lambda: apply_change(actor=site.operator, change=back))

    assert (refusal.code, "Audit. Wait, or ask" in refusal.message) == ("frozen", True)
    lift_freeze(actor=administrator, freeze=freeze)
    site.finish(apply_change(actor=site.operator, change=back))
    assert refusal_of(lambda: lift_freeze(actor=administrator, freeze=freeze)).code == "state"


def test_a_freeze_of_another_cluster_and_one_that_is_over_stop_nothing(
    site: Site, change: Change, administrator: User
) -> None:
    other = Cluster.objects.create(name="other")
    freeze_now(site, administrator, other)
    over = freeze_now(site, administrator, site.cluster)
    with time_machine.travel(over.ends_at, tick=False):
        site.see_nodes()
        assert apply_change(actor=site.operator, change=change).state == "running"


def test_a_deployment_that_runs_when_a_freeze_begins_goes_on(
    site: Site, change: Change, administrator: User
) -> None:
    deployment = apply_change(actor=site.operator, change=change)
    freeze_now(site, administrator, site.cluster)

    site.finish(deployment)

    change.refresh_from_db()
    assert change.state == "applied"


@pytest.mark.parametrize("name", ["author", "approver", "operator", "viewer"])
def test_only_administrators_declare_and_lift_freezes(
    site: Site, administrator: User, name: str, request: pytest.FixtureRequest
) -> None:
    person: User = request.getfixturevalue(name)
    freeze = freeze_now(site, administrator, site.cluster)

    assert refusal_of(lambda: freeze_now(site, person, site.cluster)).code == "forbidden"
    assert refusal_of(lambda: lift_freeze(actor=person, freeze=freeze)).code == "forbidden"


@pytest.mark.parametrize(
    ("start", "end", "reason", "field"),
    [(-2, -1, "Sale", "ends_at"), (2, 1, "Sale", "ends_at"), (1, 2, "  ", "reason")],
)
def test_a_freeze_needs_a_reason_and_an_end_to_come(
    site: Site, administrator: User, start: int, end: int, reason: str, field: str
) -> None:
    now = timezone.now()
    refusal = refusal_of(
        lambda: declare_freeze(
            actor=administrator,
            cluster=site.cluster,
            starts_at=now + start * HOUR,
            ends_at=now + end * HOUR,
            reason=reason,
        )
    )

    assert isinstance(refusal, Invalid)
    assert list(refusal.fields) == [field]
