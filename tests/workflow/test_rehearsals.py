"""What is proposed was tried on a kernel before anybody says yes to it."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import RehearsalState
from balancer.lab.fake import unable
from balancer.models import AuditEvent, Change, Cluster, Job, Node, Rehearsal
from balancer.workflow import audit
from balancer.workflow.approvals import why_not_approved
from balancer.workflow.claims import own_identity
from balancer.workflow.deployments import apply_change
from balancer.workflow.policies import update_policy
from balancer.workflow.queueing import queue_job
from balancer.workflow.rehearsals import request_fresh, request_rehearsal
from balancer.workflow.rehearsed import standing_of, wanted_nodes, why_not_rehearsed
from balancer.workflow.rehearsing import recover_rehearsals, run_rehearsal
from balancer.workflow.revisions import live_revision
from balancer.workflow.submissions import discard_change, submit_change, withdraw_change
from tests.cast import Site, let_rehearsals_be
from tests.documents import service_data
from tests.workflow.deeds import actions_on, approve, edit, refusal_of
from tests.workflow.rehearsing import Stage, make_stage, see, spoil_shares, states, waiting

BOTH_QUEUED = [("lb1", "queued"), ("lb2", "queued")]
BOTH_PASSED = [("lb1", "passed"), ("lb2", "passed")]


@pytest.fixture
def stage(site: Site) -> Stage:
    return make_stage(site)


@pytest.fixture
def change(site: Site, stage: Stage) -> Change:
    """Submitted."""
    return submit_change(actor=site.author, change=site.change(service_data("web")))


def test_submitting_asks_for_a_rehearsal_on_each_kind_of_node_and_approving_waits_for_all(
    site: Site, stage: Stage, change: Change
) -> None:
    assert states(change) == BOTH_QUEUED
    first, second = waiting(change)
    refused = refusal_of(lambda: approve(site.approver, change))
    assert refused.code == "not-rehearsed"
    assert "being rehearsed on lb1; wait for the result. It is being rehearsed on lb2" in refused.message

    assert stage.run(first) is RehearsalState.PASSED
    assert refusal_of(lambda: approve(site.approver, change)).message == (
        "It is being rehearsed on lb2; wait for the result."
    )
    assert stage.run(second) is RehearsalState.PASSED

    assert approve(site.approver, change).state == "approved"
    assert stage.ways["lb1"].touched == [("web",)]
    kept = Rehearsal.objects.get(pk=first.pk)
    assert kept.digest == change.digest
    assert kept.result["digest"] == kept.ruleset_digest
    assert actions_on(change)[-5:] == [
        "change.approved.refused",
        "rehearsal.passed",
        "change.approved.refused",
        "rehearsal.passed",
        "change.approved",
    ]


def test_a_change_whose_rehearsal_failed_is_not_approved_and_the_reason_has_the_numbers(
    site: Site, stage: Stage, change: Change
) -> None:
    stage.ways["lb2"].spoil = spoil_shares
    stage.run_all(change)

    refused = refusal_of(lambda: approve(site.approver, change))

    assert refused.code == "not-rehearsed"
    assert "The rehearsal on lb2 failed." in refused.message
    assert "web: 10.0.0.3:80 got 200 of 400 connections, where 100 are promised." in refused.message
    assert Change.objects.get().state == "submitted"


def test_what_the_kernel_refuses_and_what_no_machine_can_try_are_told_in_words(
    site: Site, stage: Stage, change: Change
) -> None:
    stage.ways["lb1"].fail_next = unable()
    stage.ways["lb2"].kernel_error = "iptables-restore: line 7 failed"
    stage.run_all(change)

    message = refusal_of(lambda: approve(site.approver, change)).message

    assert "on lb1 could not be made. A rehearsal needs ip, which this machine lacks." in message
    assert "on lb2 failed. Failed: the ruleset was not loaded. iptables-restore: line 7 failed" in message


def test_a_mistake_in_the_rehearsal_itself_ends_it(stage: Stage, change: Change) -> None:
    stage.ways["lb1"].fail_next = RuntimeError("boom")

    assert stage.run(waiting(change)[0]) is RehearsalState.FAILED
    assert "Unexpected RuntimeError: boom" in str(why_not_rehearsed(change))


def test_one_that_passes_in_a_second_attempt_counts(site: Site, stage: Stage, change: Change) -> None:
    stage.ways["lb1"].fail_next = unable()
    stage.run_all(change)

    request_rehearsal(actor=site.approver, change=change)
    assert standing_of(change).pending
    stage.run_all(change)

    assert approve(site.approver, change).state == "approved"


def test_a_later_failure_undoes_an_earlier_pass(site: Site, stage: Stage, change: Change) -> None:
    stage.run_all(change)
    approve(site.approver, change)
    stage.ways["lb1"].spoil = spoil_shares
    request_rehearsal(actor=site.author, change=change)
    stage.run_all(change)

    refused = refusal_of(lambda: apply_change(actor=site.operator, change=change))

    assert refused.code == "not-rehearsed"
    assert "got 200 of 400" in str(why_not_approved(Change.objects.get()))


def test_the_worker_asks_again(site: Site, stage: Stage, change: Change) -> None:
    stage.run_all(change)
    approve(site.approver, change)
    deployment = apply_change(actor=site.operator, change=change)
    Rehearsal.objects.filter(node__name="lb2").update(state="failed")

    assert site.run(deployment.jobs.get(node__name="lb1")) == "failed"


def test_a_change_that_was_edited_is_rehearsed_again_and_one_that_was_not_is_not(
    site: Site, stage: Stage, change: Change
) -> None:
    stage.run_all(change)
    back = withdraw_change(actor=site.author, change=change)
    again = submit_change(actor=site.author, change=back)
    assert states(again) == BOTH_PASSED
    assert why_not_rehearsed(again) is None

    back = withdraw_change(actor=site.author, change=again)
    edit(site.author, site, back, port=81)
    moved = submit_change(actor=site.author, change=back)
    assert states(moved) == [*BOTH_PASSED, *BOTH_QUEUED]
    assert refusal_of(lambda: approve(site.approver, moved)).code == "not-rehearsed"


def test_withdrawing_editing_or_discarding_a_change_ends_its_rehearsals(
    site: Site, stage: Stage, change: Change
) -> None:
    withdraw_change(actor=site.author, change=change)
    assert {state for _, state in states(change)} == {"cancelled"}

    request_rehearsal(actor=site.author, change=change)
    edit(site.author, site, change, port=81)
    request_rehearsal(actor=site.author, change=change)
    discard_change(actor=site.author, change=change)
    assert [state for _, state in states(change)] == ["cancelled"] * 6
    reasons = set(Rehearsal.objects.values_list("error", flat=True))
    assert reasons == {"The change was withdrawn.", "The change was edited.", "The change was discarded."}


def test_what_is_withdrawn_while_it_is_tried_leaves_no_result(
    site: Site, stage: Stage, change: Change
) -> None:
    stage.ways["lb1"].before_end = lambda: withdraw_change(actor=site.author, change=change) and None

    assert stage.run(waiting(change)[0]) is None
    assert {(r.state, r.result) for r in Rehearsal.objects.all()} == {("cancelled", None)}


def test_a_draft_is_rehearsed_on_demand_and_need_not_be_again_when_it_is_submitted(
    site: Site, stage: Stage
) -> None:
    draft = site.change(service_data("web"))
    request_rehearsal(actor=site.author, change=draft)
    stage.run_all(draft)

    submitted = submit_change(actor=site.author, change=draft)

    assert states(submitted) == BOTH_PASSED
    assert approve(site.approver, submitted).state == "approved"


def test_who_neither_edits_the_change_nor_approves_asks_for_no_rehearsal(
    site: Site, stage: Stage, viewer: User, operator: User, stranger: User
) -> None:
    draft = site.change(service_data("web"))
    for person in (viewer, operator, stranger):
        assert refusal_of(lambda: request_rehearsal(actor=person, change=draft)).code == "forbidden"  # noqa: B023
    request_rehearsal(actor=site.approver, change=draft)
    assert refusal_of(lambda: request_rehearsal(actor=site.author, change=draft)).code == "busy"
    empty = site.change()
    assert refusal_of(lambda: request_rehearsal(actor=site.author, change=empty)).code == "nothing"


def test_of_nodes_of_one_kind_the_one_that_was_seen_last_does_it(site: Site, stage: Stage) -> None:
    see("lb1", flavour="nft", driver="iptables-restore", ago=3)
    change = submit_change(actor=site.author, change=site.change(service_data("web")))

    assert states(change) == [("lb2", "queued")]
    see("lb2", flavour="nft", driver="iptables-restore", ago=120)
    see("lb1", flavour="nft", driver="iptables-restore")
    assert "the worker of lb2, which does not answer" in str(why_not_rehearsed(change))
    request_rehearsal(actor=site.author, change=change)

    assert states(change) == [("lb2", "cancelled"), ("lb1", "queued")]


def test_a_node_that_was_never_seen_is_named_and_asks_for_its_own_when_it_comes(
    site: Site, stage: Stage
) -> None:
    Node.objects.update(facts={}, last_seen=None)
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    assert states(change) == []
    assert wanted_nodes(site.cluster).unknown == ("lb1", "lb2")
    assert "Start the worker of lb1 or lb2" in refusal_of(lambda: approve(site.approver, change)).message
    assert refusal_of(lambda: request_rehearsal(actor=site.author, change=change)).code == "nothing"

    see("lb1", flavour="legacy", driver="python-iptables")
    stage.tick("lb1")
    stage.tick("lb1")
    assert approve(site.approver, change).state == "approved"

    see("lb2", flavour="nft", driver="iptables-restore")
    refused = refusal_of(lambda: apply_change(actor=site.operator, change=change))
    assert "was not rehearsed for nft through iptables-restore" in refused.message
    stage.tick("lb2")
    stage.tick("lb2")
    assert apply_change(actor=site.operator, change=change).state == "running"


def test_a_policy_that_needs_no_rehearsal_asks_for_none(site: Site, stage: Stage) -> None:
    let_rehearsals_be(site.cluster)
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    stage.tick("lb1")

    assert states(change) == []
    assert approve(site.approver, change).state == "approved"


def test_where_nobody_has_to_approve_the_rehearsal_that_passes_does(site: Site, stage: Stage) -> None:
    Cluster.objects.update(approvals=0, critical_approvals=0)
    site.cluster.refresh_from_db()
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    first, second = waiting(change)
    stage.run(first)
    assert Change.objects.get().state == "submitted"
    stage.run(second)
    assert Change.objects.get().state == "approved"


def test_where_nobody_has_to_approve_a_rehearsal_that_fails_does_not(site: Site, stage: Stage) -> None:
    Cluster.objects.update(approvals=0, critical_approvals=0)
    site.cluster.refresh_from_db()
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    stage.ways["lb2"].spoil = spoil_shares
    stage.run_all(change)

    assert Change.objects.get().state == "submitted"


def test_another_policy_means_another_digest_and_another_rehearsal(
    site: Site, stage: Stage, change: Change
) -> None:
    stage.run(waiting(change)[0])
    update_policy(actor=None, cluster=site.cluster, approvals=2, critical_approvals=2)

    assert [state for _, state in states(change)] == ["passed", "cancelled", "queued", "queued"]


def test_a_fresh_one_counts_from_the_moment_it_was_asked_for(
    site: Site, stage: Stage, change: Change
) -> None:
    stage.run_all(change)
    with audit.writing():
        since = request_fresh(change=change, reason="Its window begins.")

    assert standing_of(change).passed
    assert standing_of(change, since=since).pending
    stage.run(waiting(change)[0])
    stage.ways["lb2"].spoil = spoil_shares
    stage.run_all(change)
    fresh = standing_of(change, since=since)
    assert (fresh.passed, fresh.pending) == (False, False)
    assert "got 200 of 400" in fresh.why_not


def test_a_deployment_goes_first(site: Site, stage: Stage, change: Change) -> None:
    let_rehearsals_be(site.cluster)
    deployment = site.start(service_data("mail", port=25))
    let_rehearsals_be(site.cluster, rehearsal="required")
    mine = waiting(change)[0]

    assert stage.run(mine) is None
    assert states(change)[0] == ("lb1", "queued")
    assert not AuditEvent.objects.filter(action="worker.refused").exists()
    let_rehearsals_be(site.cluster)
    site.finish(deployment)
    assert stage.run(mine) is RehearsalState.PASSED


def test_one_that_is_under_way_gives_way_to_a_job_and_is_begun_again_afterwards(
    site: Site, stage: Stage, change: Change
) -> None:
    mine, way = waiting(change)[0], stage.ways["lb1"]

    def interrupted(*, meanwhile: Callable[[], None], **rest: Any) -> Any:
        queue_job(actor=None, node=mine.node, revision=live_revision(site.cluster), cause="It cannot wait.")
        return way(meanwhile=meanwhile, **rest)

    found = run_rehearsal(
        rehearsal_id=str(mine.pk), node_name="lb1", rehearse=interrupted, identity="test:1:1"
    )

    assert found is None
    mine.refresh_from_db()
    assert (mine.state, mine.attempts) == ("queued", 0)
    site.run(Job.objects.get())
    assert stage.run(mine) is RehearsalState.PASSED


def test_a_lost_message_costs_one_tick(stage: Stage, change: Change) -> None:
    stage.tick("lb1", later=0)
    assert states(change) == BOTH_QUEUED
    stage.tick("lb1")
    assert states(change) == [("lb1", "passed"), ("lb2", "queued")]
    assert not Job.objects.exists()


def test_what_a_dead_worker_left_is_begun_again_and_a_living_one_is_left_alone(
    stage: Stage, change: Change
) -> None:
    mine = waiting(change)[0]
    taken = {"state": "running", "claim": uuid.uuid4(), "attempts": 1}
    Rehearsal.objects.filter(pk=mine.pk).update(**taken, claimed_by="another boot:1:1")

    stage.tick("lb1", later=0)
    assert states(change)[0] == ("lb1", "passed")

    Rehearsal.objects.filter(pk=mine.pk).update(**taken, result=None, claimed_by=own_identity())
    assert not recover_rehearsals(node=mine.node, identity="test:1:1")
    Rehearsal.objects.filter(pk=mine.pk).update(claimed_by="another boot:1:1", attempts=3)
    assert recover_rehearsals(node=mine.node, identity="test:1:1")
    assert "The worker died 3 times while it was at it." in str(why_not_rehearsed(change))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda change: (uuid.uuid4(), "lb1"), "unknown-job"),
        (lambda change: (waiting(change)[0].pk, "lb2"), "other-node"),
        (lambda change: ("'; drop", "lb1"), "unknown-job"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_an_event(
    stage: Stage, change: Change, make: object, code: str
) -> None:
    rehearsal_id, node = make(change)  # type: ignore[operator]
    done = run_rehearsal(
        rehearsal_id=str(rehearsal_id), node_name=node, rehearse=stage.ways[node], identity="test:1:1"
    )

    assert done is None
    assert AuditEvent.objects.get(action="worker.refused").facts["code"] == code
    assert states(change) == BOTH_QUEUED


def test_one_that_is_over_is_not_begun_again(stage: Stage, change: Change) -> None:
    mine = waiting(change)[0]
    stage.run(mine)

    assert stage.run(mine) is None
    assert AuditEvent.objects.get(action="worker.refused").facts["code"] == "ended"
    assert len(stage.ways["lb1"].touched) == 1


def test_a_node_is_seen_while_it_rehearses(stage: Stage, change: Change) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    Node.objects.update(last_seen=long_ago)

    stage.run(waiting(change)[0])

    seen = Node.objects.get(name="lb1").last_seen
    assert seen is not None
    assert seen > long_ago
