"""Claim, check, act, record: what a worker does with a job, and what it will not do."""

import os
import subprocess
import sys
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.kernel.base import Busy, KernelError, OutcomeUnknown, Receipt, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent, Change, Draft, Job, Node, Revision, Vote, history
from balancer.workflow.claims import is_alive, own_identity
from balancer.workflow.jobs import ATTEMPTS_MAX, recover_jobs
from tests.cast import Site
from tests.documents import service_data

DEAD = "00000000-0000-0000-0000-000000000000:1:1"


@pytest.fixture
def job(site: Site) -> Job:
    return site.start(service_data("web")).jobs.get(node__name="lb1")


def refusals() -> list[str]:
    return list(AuditEvent.objects.filter(action="worker.refused").values_list("facts__code", flat=True))


def untouched(site: Site) -> bool:
    return all(not kernel.forwarding for kernel in site.kernels.values())


def test_a_job_brings_the_ruleset_of_its_revision_into_the_kernel(site: Site, job: Job) -> None:
    assert site.run(job) is JobState.SUCCEEDED

    job.refresh_from_db()
    assert "LB-S-web" in site.own_rules("lb1")["nat"]
    assert job.receipt["ipv4"]["changed"] is True
    assert job.steps[0]["text"].startswith("Checked")
    assert [step["text"] for step in job.steps[-2:]] == [
        "Read back and verified.",
        "Confirmed: every check holds.",
    ]
    assert job.node.carried_revision is None or job.node.carried_revision == job.revision


def test_the_node_says_afterwards_what_it_carries(site: Site, job: Job) -> None:
    site.run(job)

    node = Node.objects.get(name="lb1")
    assert (node.carried_revision, node.in_sync) == (job.revision, True)


def test_no_transaction_is_open_while_the_kernel_is_at_work(site: Site, job: Job) -> None:
    depth = len(connection.savepoint_ids)
    seen = []

    class Watching(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            seen.append(len(connection.savepoint_ids))
            return super().sync(**arguments)

    site.run(job, kernel=Watching())

    assert seen == [depth] * 2, "one sync for each family"


# What is refused


def test_an_id_that_is_no_jobs_is_refused(site: Site, job: Job) -> None:
    job.pk = uuid.uuid4()

    assert site.run(job) is None
    assert (refusals(), untouched(site)) == (["unknown-job"], True)


def test_another_nodes_job_is_refused(site: Site, job: Job) -> None:
    assert site.run(job, node_name="lb2") is None

    job.refresh_from_db()
    assert (refusals(), untouched(site), job.state) == (["other-node"], True, "queued")


def test_a_replayed_job_does_nothing_and_leaves_an_event(site: Site) -> None:
    site.deploy(service_data("web"))
    old = Job.objects.get(node__name="lb1")
    site.deploy(service_data("web", port=81))
    before = site.own_rules("lb1")

    assert site.run(old) is None

    assert (refusals(), site.own_rules("lb1")) == (["ended"], before)


def test_a_job_that_is_running_is_not_run_twice(site: Site, job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(state="running", claim=uuid.uuid4())

    assert site.run(job) is None
    assert (refusals(), untouched(site)) == (["running"], True)


def forge_document(job: Job) -> None:
    revision = Revision.objects.get(pk=job.revision_id)
    history.uninstall(connection=connection)
    Revision.objects.filter(pk=revision.pk).update(document=revision.document.replace("10.0.0.3", "10.6.6.6"))


def forge_ruleset(job: Job) -> None:
    history.uninstall(connection=connection)
    Revision.objects.filter(pk=job.revision_id).update(rulesets={"ipv4": "*nat\nCOMMIT\n"})


def forge_digest(job: Job) -> None:
    history.uninstall(connection=connection)
    Revision.objects.filter(pk=job.revision_id).update(digest="0" * 64)


def drop_votes(job: Job) -> None:
    Vote.objects.all().delete()


def reject_silently(job: Job) -> None:
    Vote.objects.update(verdict="reject")


def make_the_approver_a_contributor(job: Job) -> None:
    job.deployment.change.contributors.add(Vote.objects.get().user)


def alter_a_draft(job: Job) -> None:
    draft = Draft.objects.get()
    Draft.objects.update(after=draft.after | {"port": 8080})


def end_the_deployment(job: Job) -> None:
    job.deployment.state = "failed"
    job.deployment.save()


def point_to_another_revision(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(revision=Revision.objects.get(number=0))


@pytest.mark.parametrize(
    "forge",
    [
        forge_document,
        forge_ruleset,
        forge_digest,
        drop_votes,
        reject_silently,
        make_the_approver_a_contributor,
        alter_a_draft,
        end_the_deployment,
        point_to_another_revision,
    ],
)
def test_the_worker_checks_everything_again_and_refuses_what_does_not_match(
    site: Site, job: Job, forge: Any
) -> None:
    forge(job)

    assert site.run(Job.objects.get(pk=job.pk)) is JobState.FAILED

    assert (refusals(), untouched(site)) == (["not-genuine"], True)
    assert not Change.objects.filter(state="applied").exists()


def test_a_convergence_to_what_is_not_live_is_refused(site: Site) -> None:
    old = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    before = site.own_rules("lb1")
    forged = Job.objects.create(
        node=Node.objects.get(name="lb1"), revision=old, reason="converge", queued_at=timezone.now()
    )

    assert site.run(forged) is JobState.FAILED
    assert (refusals(), site.own_rules("lb1")) == (["not-genuine"], before)


# Whatever the kernel does, the job ends


def test_an_unexpected_error_fails_the_job(site: Site, job: Job) -> None:
    class Broken:
        def sync(self, **_: object) -> None:
            raise ZeroDivisionError("oops")

    assert site.run(job, kernel=Broken()) is JobState.FAILED
    job.refresh_from_db()
    assert job.error == "Unexpected ZeroDivisionError: oops"


@pytest.mark.parametrize("error", [OutcomeUnknown("The read-back failed."), Busy("Somebody has the lock.")])
def test_what_may_go_well_the_next_time_is_tried_again(site: Site, job: Job, error: KernelError) -> None:
    site.kernels["lb1"].fail_next = error

    assert site.run(job) is JobState.SUCCEEDED


def test_a_rejection_is_not_tried_again(site: Site, job: Job) -> None:
    site.kernels["lb1"].fail_next = Rejected("The kernel said no.")

    assert site.run(job) is JobState.FAILED


def test_a_kernel_that_stays_busy_fails_the_job_and_is_known_to_be_as_before(site: Site, job: Job) -> None:
    tries = []

    class Taken:
        def sync(self, **_: object) -> None:
            tries.append(1)
            raise Busy("Somebody has the lock.")

    assert site.run(job, kernel=Taken()) is JobState.FAILED
    assert (len(tries), Node.objects.get(name="lb1").sync_detail) == (3, "")


# Death and recovery


def claim(job: Job, *, by: str, attempts: int = 1) -> Job:
    Job.objects.filter(pk=job.pk).update(
        state="running", claim=uuid.uuid4(), claimed_by=by, claimed_at=timezone.now(), attempts=attempts
    )
    return Job.objects.get(pk=job.pk)


def test_a_dead_workers_job_is_queued_again_and_done(site: Site, job: Job) -> None:
    claim(job, by=DEAD)

    assert recover_jobs(node=job.node, identity=own_identity())
    assert site.run(job) is JobState.SUCCEEDED

    assert AuditEvent.objects.filter(action="job.requeued", object_id=str(job.pk)).exists()


def test_a_living_worker_is_left_alone(site: Site, job: Job) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        other = identity_of(living.pid)
        claim(job, by=other)

        assert not recover_jobs(node=job.node, identity=own_identity())
        living.communicate()

    assert not is_alive(other)
    assert recover_jobs(node=job.node, identity=own_identity())


def identity_of(pid: int) -> str:
    boot, _, _ = own_identity().partition(":")
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{boot}:{pid}:{started}"


def test_a_process_that_took_over_the_number_of_another_is_not_that_one() -> None:
    boot, pid, started = own_identity().rsplit(":", 2)

    assert int(pid) == os.getpid()
    assert is_alive(own_identity())
    assert not is_alive(f"{boot}:{pid}:{int(started) - 1}")
    assert not is_alive(f"{uuid.uuid4()}:{pid}:{started}")
    assert not is_alive("")


def test_a_job_that_kills_its_worker_again_and_again_fails_in_the_end(site: Site, job: Job) -> None:
    claim(job, by=DEAD, attempts=ATTEMPTS_MAX)

    recover_jobs(node=job.node, identity=own_identity())

    job.refresh_from_db()
    assert (job.state, "died 5 times" in job.error) == ("failed", True)


def test_a_worker_that_lost_its_claim_records_nothing(site: Site, job: Job) -> None:
    class Slow(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            receipt = super().sync(**arguments)
            claim(job, by="somebody else")
            return receipt

    assert site.run(job, kernel=Slow()) is None

    job.refresh_from_db()
    assert (refusals(), job.state, job.claimed_by) == (["claim-lost"], "running", "somebody else")


def test_times_come_from_the_clock_that_is_given(site: Site, job: Job) -> None:
    then = timezone.now() + timedelta(days=400)

    site.run(job, clock=lambda: then)

    job.refresh_from_db()
    assert {job.claimed_at, job.finished_at} == {then}
