"""Health beside what else a node is at: an apply that waits for its confirm, a rehearsal, a drill."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.domain.types import Document
from balancer.kernel.base import Busy
from balancer.models import Cluster, HealthEvent, Job, Node
from balancer.workflow.confirming import ConfirmProbe
from balancer.workflow.drills import start_drill
from balancer.workflow.effective import effective_of_job
from balancer.workflow.evidence import evidence_of
from balancer.workflow.health import targets_of
from balancer.workflow.revisions import node_rulesets
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.workflow.healing import ALL, Checked, checked_node, shares, web
from tests.workflow.moving import ONE, TWO, kernel
from tests.workflow.rehearsing import make_stage, states
from tests.workflow.ticking import converged


@pytest.fixture
def node(site: Site) -> Iterator[Checked]:
    """Of a cluster of its own."""
    Node.objects.filter(name="lb2").delete()
    yield from checked_node(site)


def unconfirmed(node: Checked) -> Job:
    """An apply that a person has to confirm within a minute."""
    Cluster.objects.filter(pk=node.site.cluster.pk).update(confirm="manual", confirm_seconds=60)
    node.site.cluster.refresh_from_db()
    job = node.site.start(web(description="moved")).jobs.get()
    assert node.site.run(job, clock=lambda: node.now) is JobState.UNCONFIRMED
    return job


def carries(node: Checked, job: Job) -> set[str]:
    """The usable backends in what an unconfirmed job says that it wrote; the kernel must hold just that."""
    job.refresh_from_db()
    found = effective_of_job(job)
    held = node.site.kernels["lb1"]
    assert all(held.compare(ruleset=r).in_sync for r in node_rulesets(found.document).values())
    return {backend.endpoint for backend in found.document.services[0].usable_backends}


def test_a_backend_leaves_while_an_apply_waits_for_its_confirm_and_the_confirm_goes_on(node: Checked) -> None:
    job = unconfirmed(node)
    node.say(ONE)
    node.tick()
    assert carries(node, job) == set(ALL) - {ONE}
    assert HealthEvent.objects.get().carried_at == node.now

    node.confirm = lambda *_: ()
    Job.objects.filter(pk=job.pk).update(confirmed_by=node.site.operator)
    node.tick()

    job.refresh_from_db()
    assert job.state == "succeeded"
    assert ONE not in shares(node)
    assert evidence_of(job.deployment)
    node.tick()
    assert converged(node.site) == []


def test_without_a_confirm_the_guard_puts_back_what_was_approved_and_health_is_laid_over_it_again(
    node: Checked,
) -> None:
    job = unconfirmed(node)
    node.say(ONE)
    node.tick()

    node.wait(60)
    held = node.site.kernels["lb1"]
    confirmed = node.guard.confirmed()
    assert confirmed is not None
    assert all(held.compare(ruleset=r).in_sync for r in node_rulesets(_approved(job)).values())
    node.tick()

    job.refresh_from_db()
    assert job.state == "failed"
    assert ONE not in shares(node), "at the very next tick"


def _approved(job: Job) -> Document:
    return effective_of_job(job).approved


def test_while_the_checks_after_a_commit_do_not_hold_health_is_carried_between_them(node: Checked) -> None:
    asked: list[bool] = []

    def checks(document: Document, touched: frozenset[str], _: object) -> tuple[ConfirmProbe, ...]:
        asked.append(ONE in {b.endpoint for b in document.services[0].usable_backends})
        node.say(ONE)
        return (ConfirmProbe("broker", len(asked) > 3, "The broker."),)

    job = node.site.start(web(description="moved")).jobs.get()

    state = node.site.run(job, confirm=checks, clock=lambda: node.now, pause=node.wait)

    assert state is JobState.SUCCEEDED
    assert asked == [True, False, False, False]
    assert ONE not in shares(node)


def test_in_the_middle_of_a_round_of_checks_health_is_carried_too(node: Checked) -> None:
    """One that nobody answers takes seconds."""
    job = node.site.start(web(description="moved")).jobs.get()
    left: list[set[str]] = []

    def checks(document: Document, touched: frozenset[str], meanwhile: Callable[[], None]) -> Any:
        node.say(ONE)
        meanwhile()
        left.append(carries(node, job))
        return ()

    state = node.site.run(job, confirm=checks, clock=lambda: node.now, pause=node.wait)

    assert state is JobState.SUCCEEDED
    assert left == [set(ALL) - {ONE}]
    assert ONE not in shares(node)
    assert not HealthEvent.objects.filter(carried_at=None).exists()


def test_a_kernel_that_is_busy_then_does_not_end_the_apply(node: Checked) -> None:
    job = unconfirmed(node)
    node.say(ONE)
    kernel(node).fail_next = Busy("Somebody else is writing.")
    node.tick()
    assert carries(node, job) == set(ALL)

    node.tick()

    assert carries(node, job) == set(ALL) - {ONE}


def test_the_services_that_wait_for_their_confirm_are_checked(node: Checked) -> None:
    unconfirmed(node)
    assert [service.description for service in targets_of("lb1")] == ["moved"]


def test_a_job_whose_turn_has_not_come_holds_nothing_up(site: Site) -> None:
    (node,) = checked_node(site)
    Cluster.objects.filter(pk=site.cluster.pk).update(canary=Node.objects.get(name="lb2"))
    site.start(web(description="moved"))
    assert Job.objects.filter(node__name="lb1", state="queued").exists()
    node.say(ONE)

    node.tick()

    assert ONE not in shares(node)


def test_health_is_carried_in_the_middle_of_a_rehearsal_which_goes_on(site: Site) -> None:
    (node,) = checked_node(site)
    stage = make_stage(site)
    node.rehearse = stage.ways["lb1"]
    change = site.change(web(description="moved"))
    submit_change(actor=change.author, change=change)
    node.now = timezone.now()
    node.tick(after=0)
    measured = stage.ways["lb1"]._measure
    seen: list[bool] = []

    def measure(**options: object) -> object:
        seen.append(ONE in shares(node))
        return measured(**options)

    stage.ways["lb1"]._measure = measure  # type: ignore[method-assign]
    node.say(ONE)
    node.tick()

    assert seen == [False]
    assert ("lb1", "passed") in states(change)


def test_a_drill_has_the_guard_put_back_what_was_approved_and_health_comes_back_with_the_same_tick(
    node: Checked,
) -> None:
    node.say(ONE, TWO)
    node.tick()
    start_drill(actor=node.site.operator, node=node.node)

    node.tick()

    assert node.node.drilled_at is not None
    assert set(shares(node)) == set(ALL) - {ONE, TWO}
    assert converged(node.site) == []
