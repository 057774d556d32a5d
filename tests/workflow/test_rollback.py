"""Back to an earlier revision."""

from dataclasses import replace

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.models import Change, Cluster, Node, Revision
from balancer.workflow.approvals import approve_change
from balancer.workflow.deployments import apply_change, cancel_deployment
from balancer.workflow.drafts import save_draft
from balancer.workflow.errors import Refused
from balancer.workflow.operation import update_operation
from balancer.workflow.queries import WayBack, judge_way_back, rollbacks
from balancer.workflow.revisions import live_revision
from balancer.workflow.rollback import roll_back_at_once, roll_back_to
from balancer.workflow.submissions import rebase_change, submit_change, withdraw_change
from balancer.workflow.waivers import why_not_at_once
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import approve, refusal_of


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


def two_services(site: Site) -> Revision:
    """Web and mail; afterwards web moved and dns came."""
    old = site.deploy(service_data("web"), service_data("mail", port=25))
    site.deploy(service_data("web", port=81), service_data("dns", port=53, protocol="udp"))
    return old


def ports(site: Site) -> dict[str, int]:
    return dict(site.cluster.services.values_list("name", "port"))


def test_chosen_services_come_back_and_the_others_stay(site: Site) -> None:
    old = two_services(site)

    change = roll_back_to(actor=site.operator, revision=old, services=["web"])
    site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert ports(site) == {"web": 80, "mail": 25, "dns": 53}


def test_a_service_that_was_not_there_then_goes_when_it_is_chosen(site: Site) -> None:
    old = two_services(site)

    change = roll_back_to(actor=site.operator, revision=old, services=["dns"])
    site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert ports(site) == {"web": 81, "mail": 25}


@pytest.mark.parametrize(
    ("services", "code"), [([], "invalid"), (["nosuch"], "invalid"), (["mail"], "nothing")]
)
def test_a_choice_that_brings_nothing_is_refused(site: Site, services: list[str], code: str) -> None:
    old = two_services(site)

    assert refusal_of(lambda: roll_back_to(actor=site.operator, revision=old, services=services)).code == code


def test_chosen_services_are_not_stale_by_what_others_made_of_their_neighbours(site: Site) -> None:
    old = two_services(site)
    change = site.approve(roll_back_to(actor=site.operator, revision=old, services=["web"]))
    site.deploy(service_data("mail", port=26))

    site.finish(apply_change(actor=site.operator, change=change))

    assert ports(site) == {"web": 80, "mail": 26, "dns": 53}


def test_chosen_services_are_brought_up_to_date_as_they_were_chosen(site: Site) -> None:
    old = two_services(site)
    change = site.approve(roll_back_to(actor=site.operator, revision=old, services=["web"]))
    site.deploy(service_data("web", port=82))

    change = rebase_change(actor=site.operator, change=withdraw_change(actor=site.operator, change=change))
    site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert ports(site) == {"web": 80, "mail": 25, "dns": 53}


def let_operators_go_back(site: Site) -> None:
    update_operation(
        actor=None, cluster=site.cluster, operation=replace(site.cluster.operation, rollback_at_once=True)
    )


def test_an_operator_goes_back_at_once_where_the_policy_says_so(site: Site) -> None:
    old = two_services(site)
    let_operators_go_back(site)

    new = site.finish(roll_back_at_once(actor=site.operator, cluster=site.cluster))

    assert (new.document, new.rulesets) == (old.document, old.rulesets)
    assert new.change is not None
    assert not new.change.votes.exists()


def test_from_the_first_revision_the_way_back_leads_to_the_empty_one(site: Site) -> None:
    site.deploy(service_data("web"))
    let_operators_go_back(site)

    site.finish(roll_back_at_once(actor=site.operator, cluster=site.cluster))

    assert not site.cluster.services.exists()


def test_nobody_goes_back_at_once_without_the_policy(site: Site) -> None:
    two_services(site)

    assert refusal_of(lambda: roll_back_at_once(actor=site.operator, cluster=site.cluster)).code == "policy"
    assert not Change.objects.filter(kind="rollback").exists()


@pytest.mark.parametrize("name", ["author", "approver", "viewer", "stranger"])
def test_going_back_at_once_takes_both_rights(site: Site, name: str, request: pytest.FixtureRequest) -> None:
    two_services(site)
    let_operators_go_back(site)
    person = request.getfixturevalue(name)

    assert refusal_of(lambda: roll_back_at_once(actor=person, cluster=site.cluster)).code == "forbidden"


def test_where_nothing_was_live_there_is_no_way_back(site: Site) -> None:
    let_operators_go_back(site)

    assert refusal_of(lambda: roll_back_at_once(actor=site.operator, cluster=site.cluster)).code == "nothing"


def test_the_worker_asks_the_policy_again(site: Site) -> None:
    two_services(site)
    let_operators_go_back(site)
    deployment = roll_back_at_once(actor=site.operator, cluster=site.cluster)
    Cluster.objects.update(rollback_at_once=False)

    job = deployment.jobs.order_by("position")[0]

    assert site.run(job) is JobState.FAILED
    job.refresh_from_db()
    assert "lets nobody roll back without an approval" in job.error


def test_a_withdrawn_rollback_at_once_is_reviewed_and_applied_like_any_other(site: Site) -> None:
    old = two_services(site)
    let_operators_go_back(site)
    deployment = roll_back_at_once(actor=site.operator, cluster=site.cluster)
    cancel_deployment(actor=site.operator, deployment=deployment)
    Cluster.objects.update(rollback_at_once=False)
    change = withdraw_change(actor=site.operator, change=deployment.change)
    submitted = submit_change(actor=site.operator, change=change)
    assert submitted.state == "submitted"

    new = site.finish(apply_change(actor=site.operator, change=approve(site.approver, submitted)))

    assert new.document == old.document


def test_a_rollback_further_back_is_not_taken_for_one_to_the_previous_revision(site: Site) -> None:
    old = two_services(site)
    site.deploy(service_data("web", port=83))
    let_operators_go_back(site)
    change = submit_change(actor=site.operator, change=roll_back_to(actor=site.operator, revision=old))
    Change.objects.filter(pk=change.pk).update(at_once=True)

    change.refresh_from_db()

    assert "which was live before; it needs an approval" in (why_not_at_once(change) or "")


def test_the_page_says_that_the_rules_will_be_the_very_bytes_or_why_not(site: Site) -> None:
    old = two_services(site)

    assert judge_way_back(revision=old) == WayBack(revision=old, identical=True, reasons=())
    assert "Only web of revision 1" in judge_way_back(revision=old, services=["web"]).reasons[0]
    Node.objects.filter(name="lb2").update(facts={"interfaces": [{"name": "eth7"}]})
    assert "The node lb2 has no interface eth0" in judge_way_back(revision=old).reasons[0]


def test_a_revision_that_compiles_to_other_rules_today_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = two_services(site)
    monkeypatch.setattr(rollbacks, "render_rulesets", lambda document: {"ipv4": "*nat\nCOMMIT\n"})

    way = judge_way_back(revision=old)

    assert not way.identical
    assert "compiles the document of revision 1 to other rules" in way.reasons[0]
