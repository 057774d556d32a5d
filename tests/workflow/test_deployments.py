"""Apply: one revision, one job for each node, live when every node carries it, and only then."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone

from balancer.domain.codec import dump_document
from balancer.domain.lifecycle import JobState
from balancer.kernel.base import KernelError, OutcomeUnknown, Rejected
from balancer.models import AuditEvent, Backend, Change, Deployment, Job, Node, Revision, Service
from balancer.workflow.clusters import create_cluster, update_node
from balancer.workflow.deployments import apply_change, cancel_deployment
from balancer.workflow.documents import live_document
from balancer.workflow.drafts import save_draft
from balancer.workflow.editing import open_change
from balancer.workflow.errors import Refused
from balancer.workflow.live import value_of_row
from balancer.workflow.queueing import queue_job
from balancer.workflow.revisions import document_of, live_revision
from balancer.workflow.submissions import withdraw_change
from tests.cast import Site, let_rehearsals_be
from tests.documents import backend_data, service_data
from tests.stopwatch import Stopwatch


def test_apply_makes_the_next_revision_and_one_job_for_each_node(site: Site) -> None:
    deployment = site.start(service_data("web"))

    assert deployment.revision.number == 1
    assert sorted(deployment.jobs.values_list("node__name", "state")) == [
        ("lb1", "queued"),
        ("lb2", "queued"),
    ]


def test_a_message_to_the_canary_goes_out_after_the_commit_and_carries_the_jobs_id_only(
    site: Site, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: object
) -> None:
    sent: list[tuple] = []
    monkeypatch.setattr(
        "balancer.workflow.queue.current_app.send_task",
        lambda name, **o: sent.append((name, o["args"], o["queue"])),
    )
    change = site.approved(service_data("web"))
    with django_capture_on_commit_callbacks(execute=False) as callbacks:  # type: ignore[operator]
        deployment = apply_change(actor=site.operator, change=change)
    assert sent == []

    for callback in callbacks:
        callback()

    canary = deployment.jobs.get(node__name="lb1")
    assert sent == [("balancer.tasks.apply_job", [str(canary.pk)], "node.lb1")]


def test_a_broker_that_is_not_there_does_not_undo_the_deed(
    site: Site, django_capture_on_commit_callbacks: object, caplog: pytest.LogCaptureFixture
) -> None:
    change = site.approved(service_data("web"))
    watch = Stopwatch()

    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        deployment = apply_change(actor=site.operator, change=change)

    assert watch.own < 3, "a person waits for this"

    assert deployment.jobs.filter(state="queued").count() == 2
    assert "broker cannot be reached" in caplog.text


def test_nothing_is_live_until_the_last_node_carries_it(site: Site) -> None:
    deployment = site.start(service_data("web"))
    first, last = deployment.jobs.order_by("node__name")

    site.run(first)
    assert not Service.objects.exists()
    assert live_revision(site.cluster).number == 0

    site.run(last)
    assert live_revision(site.cluster) == deployment.revision
    assert Service.objects.get().name == "web"
    assert [Change.objects.get().state, Deployment.objects.get().state] == ["applied", "succeeded"]


def test_the_live_rows_say_what_the_live_document_says(site: Site) -> None:
    site.deploy(service_data("web"), service_data("mail", port=25, description="old"))
    site.deploy(
        service_data(
            "mail",
            port=26,
            scheduler="random",
            address="198.51.100.1",
            source_nat={"mode": "none"},
            backends=[backend_data("10.0.0.9", port=1025, weight=3, state="draining")],
        )
    )

    services = {service.name: service for service in live_document(site.cluster).services}
    assert {row.name: value_of_row(row) for row in Service.objects.all()} == services


def test_a_deleted_service_leaves_no_row(site: Site) -> None:
    from balancer.workflow.drafts import delete_service

    site.deploy(service_data("web"))
    saved = delete_service(actor=site.author, cluster=site.cluster, name="web")
    site.finish(apply_change(actor=site.operator, change=site.approve(saved.change)))

    assert (Service.objects.count(), Backend.objects.count()) == (0, 0)


def test_an_untouched_service_keeps_its_rows(site: Site) -> None:
    site.deploy(service_data("web"), service_data("mail", port=25))
    before = set(Backend.objects.filter(service__name="web").values_list("pk", flat=True))

    site.deploy(service_data("mail", port=26))

    assert set(Backend.objects.filter(service__name="web").values_list("pk", flat=True)) == before


@pytest.mark.parametrize("name", ["viewer", "author", "stranger"])
def test_only_who_may_apply_applies(site: Site, name: str, request: pytest.FixtureRequest) -> None:
    person: User = request.getfixturevalue(name)
    change = site.approved(service_data("web"))

    with pytest.raises(Refused) as refused:
        apply_change(actor=person, change=change)

    assert refused.value.code == "forbidden"


@pytest.mark.parametrize("state", ["draft", "submitted", "rejected", "applied", "discarded", "applying"])
def test_only_an_approved_change_is_applied(site: Site, state: str) -> None:
    change = site.approved(service_data("web"))
    Change.objects.filter(pk=change.pk).update(state=state)

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=change)

    assert refused.value.code == "state"
    assert not Revision.objects.filter(number__gt=0).exists()


def test_a_cluster_without_nodes_has_nothing_to_apply_to(site: Site) -> None:
    cluster = create_cluster(actor=None, name="empty")
    let_rehearsals_be(cluster)
    change = open_change(actor=site.author, cluster=cluster, title="First")
    save_draft(actor=site.author, cluster=cluster, change=change, data=service_data("web"))

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=site.approve(change))

    assert refused.value.code == "nothing"


# One at a time


def test_a_second_deployment_waits_for_the_first(site: Site) -> None:
    second = site.approved(service_data("mail", port=25))
    site.start(service_data("web"))

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=second)

    assert refused.value.code == "busy"


def test_the_database_itself_refuses_a_second_active_deployment(site: Site) -> None:
    first = site.start(service_data("web"))

    with pytest.raises(IntegrityError), transaction.atomic():
        Deployment.objects.create(
            cluster=site.cluster,
            revision=first.revision,
            change=first.change,
            requested_by=site.operator,
            created_at=timezone.now(),
        )


def test_the_database_itself_refuses_a_second_active_job_of_a_node(site: Site) -> None:
    job = site.start(service_data("web")).jobs.first()
    assert job is not None

    with pytest.raises(IntegrityError), transaction.atomic():
        queue_job(actor=None, node=job.node, revision=job.revision, cause="twice")


def test_a_convergence_that_nobody_began_makes_room_for_a_deployment(site: Site) -> None:
    node = site.cluster.nodes.get(name="lb1")
    convergence = queue_job(actor=None, node=node, revision=live_revision(site.cluster), cause="test")

    site.start(service_data("web"))

    convergence.refresh_from_db()
    assert convergence.state == JobState.CANCELLED


# Failure


def fail_on(site: Site, node: str, error: KernelError) -> Deployment:
    """lb1 takes its job first; the node's kernel refuses."""
    deployment = site.start(service_data("web"))
    site.kernels[node].fail_next = error
    for job in deployment.jobs.order_by("node__name"):
        site.run(job)
    deployment.refresh_from_db()
    return deployment


def test_one_node_that_fails_fails_the_deployment_and_nothing_is_live(site: Site) -> None:
    deployment = fail_on(site, "lb2", Rejected("The kernel said no."))

    assert (deployment.state, deployment.error) == ("failed", "lb2: The kernel said no.")
    assert Change.objects.get().state == "failed"
    assert not Service.objects.exists()
    assert live_revision(site.cluster).number == 0


def test_nodes_that_had_changed_already_are_put_back(site: Site) -> None:
    site.deploy(service_data("web"))
    before = site.own_rules("lb1")
    deployment = site.start(service_data("web", port=81))
    site.kernels["lb2"].fail_next = Rejected("The kernel said no.")
    for job in deployment.jobs.order_by("node__name"):
        site.run(job)
    assert site.own_rules("lb1") != before

    for job in Job.objects.filter(reason="converge", state="queued"):
        assert site.run(job) is JobState.SUCCEEDED

    assert site.own_rules("lb1") == site.own_rules("lb2") == before
    assert {node.carried_revision.number for node in site.cluster.nodes.all()} == {1}


def test_the_rest_is_cancelled_as_soon_as_one_node_has_failed(site: Site) -> None:
    deployment = fail_on(site, "lb1", Rejected("The kernel said no."))

    assert list(deployment.jobs.order_by("node__name").values_list("state", flat=True)) == [
        "failed",
        "cancelled",
    ]
    # lb2 never began, so there is nothing to put back.
    assert set(Job.objects.filter(reason="converge").values_list("node__name", flat=True)) == {"lb1"}


def test_where_nobody_can_tell_what_the_kernel_holds_nobody_claims_to_know(site: Site) -> None:
    site.deploy(service_data("web"))
    deployment = site.start(service_data("web", port=81))
    job = deployment.jobs.get(node__name="lb1")

    class Lost:
        def sync(self, **_: object) -> None:
            raise OutcomeUnknown("The read-back failed.")

    assert site.run(job, kernel=Lost()) is JobState.FAILED

    node = site.cluster.nodes.get(name="lb1")
    assert (node.carried_revision, node.in_sync, node.sync_detail) == (None, None, "The read-back failed.")


def test_a_failed_change_can_be_applied_again(site: Site) -> None:
    deployment = fail_on(site, "lb2", Rejected("The kernel said no."))
    for job in Job.objects.filter(reason="converge", state="queued"):
        site.run(job)

    again = apply_change(actor=site.operator, change=deployment.change)
    site.finish(again)

    assert (again.revision.number, again.revision.document) == (2, deployment.revision.document)
    assert live_revision(site.cluster) == again.revision


def test_a_failed_change_can_be_withdrawn(site: Site) -> None:
    deployment = fail_on(site, "lb2", Rejected("The kernel said no."))

    assert withdraw_change(actor=site.author, change=deployment.change).state == "draft"


# Cancelling


def test_a_deployment_that_waits_for_an_absent_node_can_be_cancelled(site: Site) -> None:
    deployment = site.start(service_data("web"))
    site.run(deployment.jobs.get(node__name="lb1"))

    cancelled = cancel_deployment(actor=site.operator, deployment=deployment)

    assert cancelled.state == "cancelled"
    assert Change.objects.get().state == "failed"
    assert list(Job.objects.filter(reason="converge").values_list("node__name", flat=True)) == ["lb1"]
    assert AuditEvent.objects.filter(action="deployment.cancelled", actor_id=site.operator.pk).exists()


def test_a_deployment_that_every_node_has_begun_cannot_be_cancelled(site: Site) -> None:
    deployment = site.start(service_data("web"))
    Job.objects.filter(deployment=deployment).update(state="running", claimed_at=timezone.now())

    with pytest.raises(Refused) as refused:
        cancel_deployment(actor=site.operator, deployment=deployment)

    assert refused.value.code == "nothing"


def test_a_deployment_whose_worker_is_gone_for_good_can_be_cancelled(site: Site) -> None:
    deployment = site.start(service_data("web"))
    site.run(deployment.jobs.get(node__name="lb1"))
    last = deployment.jobs.get(node__name="lb2")
    long_ago = timezone.now() - timedelta(minutes=6)
    Job.objects.filter(pk=last.pk).update(state="running", claimed_at=timezone.now() - timedelta(minutes=4))
    site.see_nodes("lb2", at=long_ago)
    with pytest.raises(Refused):
        cancel_deployment(actor=site.operator, deployment=deployment)
    Job.objects.filter(pk=last.pk).update(claimed_at=long_ago)

    cancelled = cancel_deployment(actor=site.operator, deployment=deployment)

    assert cancelled.state == "cancelled"
    assert Node.objects.get(name="lb2").carried_revision is None
    assert set(Job.objects.filter(reason="converge").values_list("node__name", flat=True)) == {"lb1", "lb2"}


def test_a_node_that_is_switched_off_takes_no_part(site: Site) -> None:
    node = Node.objects.get(name="lb2")
    update_node(actor=None, node=node, description="", driver="auto", enabled=False)

    site.deploy(service_data("web"))

    assert set(Job.objects.values_list("node__name", flat=True)) == {"lb1"}
    assert not site.kernels["lb2"].forwarding


def test_a_deployment_that_is_over_cannot_be_cancelled(site: Site) -> None:
    site.deploy(service_data("web"))

    with pytest.raises(Refused) as refused:
        cancel_deployment(actor=site.operator, deployment=Deployment.objects.get())

    assert refused.value.code == "state"


def test_a_revision_holds_the_document_that_was_approved(site: Site) -> None:
    revision = site.deploy(service_data("web"))

    assert revision.document == dump_document(document_of(revision))
    assert "--to-destination 10.0.0.3:80" in revision.rulesets["ipv4"]
