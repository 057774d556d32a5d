"""An approval holds for exactly what was seen: every edit voids it, and nothing else does."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User

from balancer.models import Change, Draft, Vote
from balancer.workflow import changes
from balancer.workflow.approvals import why_not_approved
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import delete_service, discard_draft
from balancer.workflow.editing import describe_change
from balancer.workflow.policies import update_policy
from balancer.workflow.submissions import rebase_change, submit_change, withdraw_change
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.workflow.deeds import approve, edit, go_live, open_by, refusal_of

HEAVIER = [backend_data("10.0.0.3", port=80, weight=3), backend_data("10.0.0.4", port=80)]


@pytest.fixture
def web(site: Site) -> Site:
    site.deploy(service_data("web"), service_data("mail", port=25))
    return site


@pytest.fixture
def approved(web: Site) -> Change:
    return web.approve(edit(web.author, web, open_by(web.author, web), scheduler="random").change)


EDITS: dict[str, Callable[[Site, Change], object]] = {
    "a field": lambda site, c: edit(site.author, site, c, scheduler="random", port=81),
    "a field that leads to no other rule": lambda site, c: edit(
        site.author, site, c, scheduler="random", description="The shop"
    ),
    "the mark of a critical service": lambda site, c: edit(
        site.author, site, c, scheduler="random", critical=True
    ),
    "a weight": lambda site, c: edit(site.author, site, c, scheduler="random", backends=HEAVIER),
    "the state of a backend": lambda site, c: edit(
        site.author,
        site,
        c,
        scheduler="random",
        backends=[backend_data("10.0.0.3", port=80), backend_data("10.0.0.4", port=80, state="draining")],
    ),
    "another service": lambda site, c: edit(site.author, site, c, "mail", port=26),
    "a deletion": lambda site, c: delete_service(
        actor=site.author, cluster=site.cluster, change=c, name="mail"
    ),
}


@pytest.mark.parametrize("what", EDITS)
def test_approve_then_edit_makes_the_approval_void(web: Site, approved: Change, what: str) -> None:
    seen = approved.digest
    change = withdraw_change(actor=web.author, change=approved)

    EDITS[what](web, change)
    change = submit_change(actor=web.author, change=change)

    assert change.digest != seen
    assert "valid approval" in str(why_not_approved(change))
    assert refusal_of(lambda: apply_change(actor=web.operator, change=change)).code == "state"


@pytest.mark.parametrize("what", EDITS)
def test_nothing_is_edited_while_the_approval_stands(web: Site, approved: Change, what: str) -> None:
    assert refusal_of(lambda: EDITS[what](web, approved)).code == "state"
    assert why_not_approved(approved) is None


OTHER_DOORS = {
    "take out": lambda site, c: discard_draft(actor=site.author, change=c, service_name="web"),
    "describe": lambda site, c: describe_change(actor=site.author, change=c, title="Other", description=""),
    "rebase": lambda site, c: rebase_change(actor=site.author, change=c),
    "submit": lambda site, c: submit_change(actor=site.author, change=c),
}


@pytest.mark.parametrize("door", OTHER_DOORS)
def test_no_deed_of_an_author_changes_an_approved_change_but_withdrawing_it(
    web: Site, approved: Change, door: str
) -> None:
    assert refusal_of(lambda: OTHER_DOORS[door](web, approved)).code == "state"
    assert why_not_approved(approved) is None


@pytest.mark.parametrize("field", ["before", "after", "action", "service_name"])
def test_a_draft_that_is_altered_behind_our_back_is_noticed(web: Site, approved: Change, field: str) -> None:
    draft = Draft.objects.get(change=approved)
    altered = {
        "before": {"before": draft.before | {"port": 81}},
        "after": {"after": draft.after | {"port": 81}},
        "action": {"action": "delete", "after": None},
        "service_name": {"service_name": "mail"},
    }
    Draft.objects.filter(pk=draft.pk).update(**altered[field])

    assert "is not what was submitted" in str(why_not_approved(approved))
    assert refusal_of(lambda: apply_change(actor=web.operator, change=approved)).code in {
        "not-approved",
        "stale",
        "invalid",
    }


def test_another_policy_makes_it_void(web: Site, approved: Change, administrator: User) -> None:
    update_policy(actor=administrator, cluster=web.cluster, approvals=1, critical_approvals=3)

    assert "lacks one valid approval" in str(why_not_approved(Change.objects.get(pk=approved.pk)))


def test_a_policy_that_was_altered_behind_our_back_is_noticed(web: Site, approved: Change) -> None:
    type(web.cluster).objects.filter(pk=web.cluster.pk).update(critical_approvals=0)

    assert "the policy has changed" in str(why_not_approved(Change.objects.get(pk=approved.pk)))


def test_it_survives_while_the_base_moves_elsewhere(web: Site, approved: Change) -> None:
    go_live(web, edit(web.author, web, open_by(web.author, web), "mail", port=26).change)

    assert why_not_approved(approved) is None
    web.finish(apply_change(actor=web.operator, change=approved))

    live = dict(web.cluster.services.values_list("name", "scheduler"))
    assert live == {"mail": "round-robin", "web": "random"}
    assert web.cluster.services.get(name="mail").port == 26


def test_it_is_worth_nothing_when_the_base_moves_here(web: Site, approved: Change) -> None:
    go_live(web, edit(web.author, web, open_by(web.author, web), port=81).change)

    assert refusal_of(lambda: apply_change(actor=web.operator, change=approved)).code == "stale"

    change = withdraw_change(actor=web.author, change=approved)
    rebase_change(actor=web.author, change=change)
    change = submit_change(actor=web.author, change=change)
    assert refusal_of(lambda: apply_change(actor=web.operator, change=change)).code == "state"
    approve(web.approver, change)
    web.finish(apply_change(actor=web.operator, change=change))
    service = web.cluster.services.get(name="web")
    assert (service.port, service.scheduler) == (81, "random")


def test_it_holds_again_when_the_base_moves_here_and_back(web: Site, approved: Change) -> None:
    """The documents and the rules are those that were seen."""
    go_live(web, edit(web.author, web, open_by(web.author, web), port=81).change)
    go_live(web, edit(web.author, web, open_by(web.author, web), port=80).change)

    web.finish(apply_change(actor=web.operator, change=approved))

    assert web.cluster.services.get(name="web").scheduler == "random"


@pytest.mark.parametrize("moved", [True, False])
def test_it_holds_as_long_as_the_compiler_writes_the_very_bytes_that_were_seen(
    web: Site, approved: Change, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = changes.render_ruleset
    other = (lambda ruleset: render(ruleset) + "\n") if moved else render
    monkeypatch.setattr(changes, "render_ruleset", other)

    assert (why_not_approved(approved) is not None) is moved
    if moved:
        refusal = refusal_of(lambda: apply_change(actor=web.operator, change=approved))
        assert refusal.code == "not-approved"


def test_the_worker_asks_again_after_the_button(
    web: Site, approved: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = apply_change(actor=web.operator, change=approved)
    render = changes.render_ruleset
    monkeypatch.setattr(changes, "render_ruleset", lambda ruleset: render(ruleset) + "\n")

    job = deployment.jobs.get(node__name="lb1")
    web.run(job)

    job.refresh_from_db()
    assert (job.state, "is not what was submitted" in job.error) == ("failed", True)


def test_submitting_the_same_again_needs_a_new_approval_though_its_digest_is_the_old_one(
    web: Site, approved: Change
) -> None:
    seen = approved.digest
    change = submit_change(actor=web.author, change=withdraw_change(actor=web.author, change=approved))

    assert change.digest == seen
    assert not Vote.objects.filter(change=change).exists()
    assert change.state == "submitted"
