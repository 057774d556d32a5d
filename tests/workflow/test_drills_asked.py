"""Who may ask for a rollback drill, when one is refused or gives way, and the schedule."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.models import AuditEvent, Cluster, Job, Node
from balancer.workflow import drilling
from balancer.workflow.deployments import apply_change
from balancer.workflow.freezes import declare_freeze
from balancer.workflow.queries import list_bad_drills
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import events, refusal_of
from tests.workflow.drilling import node_of, start
from tests.workflow.test_confirming import carries as carries_here
from tests.workflow.ticking import Worker


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("viewer", "forbidden"),
        ("author", "forbidden"),
        ("disabled", "state"),
        ("drifted", "state"),
        ("elsewhere", "state"),
        ("frozen", "frozen"),
        ("deployment", "busy"),
        ("job", "busy"),
        ("neighbour", "busy"),
        ("away", "away"),
        ("no guard", "no-guard"),
    ],
)
def test_a_drill_is_refused_where_it_would_harm_or_prove_nothing(
    ready: Site, viewer: User, case: str, code: str
) -> None:
    lb1, actor = Node.objects.filter(name="lb1"), ready.operator
    if case in {"viewer", "author"}:
        actor = viewer if case == "viewer" else ready.author
    elif case == "disabled":
        lb1.update(enabled=False)
    elif case == "drifted":
        lb1.update(in_sync=False)
    elif case == "elsewhere":
        lb1.update(carried_revision=None)
    elif case == "frozen":
        freeze(ready)
    elif case == "deployment":
        ready.start(service_data("web", port=81))
    elif case == "job":
        start(ready)
    elif case == "neighbour":
        start(ready, "lb2")
    elif case == "away":
        lb1.update(last_seen=timezone.now() - timedelta(minutes=2))
        Job.objects.update(finished_at=timezone.now() - timedelta(minutes=2))
    else:
        lb1.update(guard={"alive": False})
    jobs = Job.objects.count()

    refusal = refusal_of(lambda: start(ready, actor=actor))

    assert refusal.code == code
    assert Job.objects.count() == jobs
    assert AuditEvent.objects.filter(action="drill.started.refused").count() == 1


@pytest.mark.parametrize("who", ["operator", "approver", "administrator"])
def test_who_applies_or_administers_may_start_one(ready: Site, administrator: User, who: str) -> None:
    people = {"operator": ready.operator, "approver": ready.approver, "administrator": administrator}

    assert start(ready, actor=people[who]).cause == f"{who} asked for it."


def freeze(site: Site) -> None:
    now = timezone.now()
    hour = timedelta(hours=1)
    declare_freeze(actor=None, cluster=site.cluster, starts_at=now, ends_at=now + hour, reason="Sale")


def test_a_node_to_which_nothing_was_applied_can_be_drilled(site: Site) -> None:
    Worker(site).tick(after=0)
    job = start(site)

    site.run(job)

    job.refresh_from_db()
    assert job.state == "succeeded", job.error
    assert carries_here(site, live_revision(site.cluster))


def test_a_deployment_makes_a_drill_that_waits_give_way(ready: Site) -> None:
    job = start(ready)

    apply_change(actor=ready.operator, change=ready.approved(service_data("web", port=81)))

    job.refresh_from_db()
    assert (job.state, node_of(ready).drill_error) == ("cancelled", "")


@pytest.mark.parametrize("begun", [False, True], ids=["waiting", "its worker died"])
def test_a_drill_that_a_freeze_overtakes_is_cancelled_unless_it_has_begun(ready: Site, begun: bool) -> None:
    job, worker = start(ready), Worker(ready)
    if begun:
        die_in(ready, job, "_await_restore")
    freeze(ready)
    worker.now = timezone.now()

    worker.tick()
    worker.tick()

    job.refresh_from_db()
    assert job.state == ("succeeded" if begun else "cancelled"), job.error
    assert node_of(ready).drill_error == ""


def test_a_message_cannot_begin_a_drill_in_a_freeze(ready: Site) -> None:
    job = start(ready)
    freeze(ready)

    assert ready.run(job) is None

    job.refresh_from_db()
    assert job.state == "queued"
    assert events("worker.refused")[-1]["code"] == "frozen"


def die_in(site: Site, job: Job, step: str) -> None:
    """The worker is killed before this step of `drilling`."""

    def die(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drilling, step, die)
        with pytest.raises(KeyboardInterrupt):
            site.run(job)


def test_a_deployment_waits_for_a_drill_whose_worker_died_in_the_middle(ready: Site) -> None:
    job = start(ready)
    die_in(ready, job, "_await_restore")
    Job.objects.filter(pk=job.pk).update(state="queued", claim=None, claimed_by="")
    change = ready.approved(service_data("web", port=81))

    refusal = refusal_of(lambda: apply_change(actor=ready.operator, change=change))

    assert refusal.code == "busy"
    assert "is in a rollback drill just now" in refusal.message


def test_the_schedule_drills_one_node_after_the_other_and_again_after_its_hours(ready: Site) -> None:
    Cluster.objects.update(drill_hours=24)
    workers = [Worker(ready, name) for name in ("lb1", "lb2")]

    def drilled() -> list[str]:
        jobs = Job.objects.filter(reason="drill").order_by("queued_at")
        return [f"{job.node} {job.state}" for job in jobs.select_related("node")]

    def tick(after: float) -> None:
        for worker in workers:
            worker.tick(after=after)

    tick(5)
    tick(5)
    assert drilled() == ["lb1 succeeded", "lb2 succeeded"]
    assert {e["cause"] for e in events("drill.started")} == {"The schedule of the cluster asks for one."}
    tick(23 * 3600)
    assert len(drilled()) == 2
    tick(2 * 3600)
    assert len(drilled()) == 4


@pytest.mark.parametrize("hindrance", ["neighbour", "freeze", "deployment", "no guard", "no schedule"])
def test_the_schedule_waits_while_a_drill_must_not_be(ready: Site, hindrance: str) -> None:
    Cluster.objects.update(drill_hours=None if hindrance == "no schedule" else 1)
    if hindrance == "neighbour":
        start(ready, "lb2")
    elif hindrance == "freeze":
        freeze(ready)
    elif hindrance == "deployment":
        ready.start(service_data("web", port=81))
    elif hindrance == "no guard":
        ready.guard("lb1").alive = False
    worker = Worker(ready)
    worker.now = timezone.now() - timedelta(seconds=4)

    worker.tick()

    assert not Job.objects.filter(reason="drill", node__name="lb1").exists()
    assert not AuditEvent.objects.filter(action__startswith="drill.started", actor_name="system").exists()


def test_a_drill_that_the_schedule_asks_for_in_vain_is_overdue(ready: Site) -> None:
    Cluster.objects.update(drill_hours=24)
    now, node = timezone.now(), Node.objects.filter(name="lb1")
    Node.objects.update(drilled_at=now)
    node.update(drilled_at=now - timedelta(hours=24, minutes=30))
    assert list_bad_drills(cluster=ready.cluster) == ()

    node.update(drilled_at=now - timedelta(hours=26))

    [bad] = list_bad_drills(cluster=ready.cluster)
    assert (bad.node.name, bad.overdue, bad.words) == ("lb1", True, "Proven 26 hours ago")
    node.update(enabled=False)
    assert list_bad_drills(cluster=ready.cluster) == ()
