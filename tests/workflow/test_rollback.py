"""Back to an earlier revision."""

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.models import Revision
from balancer.workflow.approvals import approve_change
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import save_draft
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import live_revision
from balancer.workflow.rollback import roll_back_to
from balancer.workflow.submissions import rebase_change, submit_change, withdraw_change
from tests.cast import Site
from tests.documents import service_data


def test_a_rollback_brings_back_the_very_bytes(site: Site) -> None:
    old = site.deploy(service_data("web"), service_data("mail", port=25))
    rules = site.own_rules("lb1")
    site.deploy(service_data("web", port=81), service_data("dns", port=53, protocol="udp"))
    assert site.own_rules("lb1") != rules

    change = roll_back_to(actor=site.operator, revision=old)
    new = site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert (new.number, new.document, new.rulesets, new.digest) == (3, old.document, old.rulesets, old.digest)
    assert site.own_rules("lb1") == rules
    assert set(site.cluster.services.values_list("name", "port")) == {("web", 80), ("mail", 25)}


def test_a_rollback_to_the_very_beginning_balances_nothing(site: Site) -> None:
    site.deploy(service_data("web"))

    change = roll_back_to(actor=site.operator, revision=Revision.objects.get(number=0))
    site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert not site.cluster.services.exists()


def test_whoever_asks_for_a_rollback_does_not_approve_it(site: Site) -> None:
    old = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    site.operator.groups.add(*site.approver.groups.all())
    both = User.objects.get(pk=site.operator.pk)
    change = submit_change(actor=both, change=roll_back_to(actor=both, revision=old))

    with pytest.raises(Refused) as refused:
        approve_change(actor=both, change=change, digest=change.digest, password_at=timezone.now())

    assert refused.value.code == "own-change"


def test_a_rollback_to_what_is_live_has_nothing_to_do(site: Site) -> None:
    site.deploy(service_data("web"))

    with pytest.raises(Refused) as refused:
        roll_back_to(actor=site.operator, revision=live_revision(site.cluster))

    assert refused.value.code == "nothing"


@pytest.mark.parametrize("name", ["viewer", "approver", "stranger"])
def test_not_everybody_may_ask_for_a_rollback(site: Site, name: str, request: pytest.FixtureRequest) -> None:
    old = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))

    with pytest.raises(Refused) as refused:
        roll_back_to(actor=request.getfixturevalue(name), revision=old)

    assert refused.value.code == "forbidden"


def test_a_rollback_cannot_be_edited(site: Site) -> None:
    old = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    change = roll_back_to(actor=site.author, revision=old)

    with pytest.raises(Refused) as refused:
        save_draft(actor=site.author, cluster=site.cluster, change=change, data=service_data("mail", port=25))

    assert refused.value.code == "rollback"


def test_a_rollback_is_stale_when_anything_else_was_applied_meanwhile(site: Site) -> None:
    old = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    change = site.approve(roll_back_to(actor=site.operator, revision=old))
    site.deploy(service_data("mail", port=25))

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=change)

    assert refused.value.code == "stale"


def test_a_stale_rollback_is_filled_in_again_by_updating_it(site: Site) -> None:
    old = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    change = site.approve(roll_back_to(actor=site.operator, revision=old))
    site.deploy(service_data("mail", port=25))

    change = rebase_change(actor=site.operator, change=withdraw_change(actor=site.operator, change=change))
    new = site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert new.document == old.document
