"""A roll-out and a window over real processes."""

from datetime import timedelta

from django.utils import timezone

from balancer.kernel.base import Flavour
from balancer.models import Deployment, Job, Window
from balancer.workflow.schedules import schedule_change
from balancer.workflow.windows import run_due_windows
from tests.documents import service_data
from tests.kernel.machine import Namespace, save
from tests.stack.machinery import Stack, eventually
from tests.stack.site import LEGACY, NFT, carries_live, events, make_site, wait_for_end, wait_for_worker
from tests.stack.together import AT_ONCE, at_once, both_databases


def test_where_the_canary_fails_the_second_kernel_stays_as_it_was_and_the_first_is_put_back(
    stack: Stack,
) -> None:
    site = make_site("lb1", "lb2")
    first, second = Namespace(), Namespace()
    stack.worker("lb1", inside=first, **LEGACY, DJANGO_SETTINGS_MODULE="tests.stack.failing")
    stack.worker("lb2", inside=second, **NFT)
    for node in ("lb1", "lb2"):
        wait_for_worker(node, stack=stack)
    assert wait_for_end(site.start(service_data("web"))).state == "succeeded"
    with second.entered():
        before = save(Flavour.NFT)
    site.see_nodes()  # no beat here, so no ticks

    failed = wait_for_end(site.start(service_data("web", port=81)))

    assert (failed.state, failed.error) == ("failed", "lb1: The probe found nobody at port 81.")
    states = dict(failed.jobs.values_list("node__name", "state"))
    assert states == {"lb1": "failed", "lb2": "cancelled"}
    back = Job.objects.filter(reason="converge")
    eventually(lambda: back.filter(state="succeeded").exists(), what="the way back of lb1")
    assert list(back.values_list("node__name", flat=True)) == ["lb1"]
    assert carries_live(site, inside=first, flavour=Flavour.LEGACY)
    with second.entered():
        assert save(Flavour.NFT) == before
    assert events("worker.refused") == []
    for inside in (first, second):
        inside.close()


@both_databases
def test_of_many_workers_that_find_a_window_due_in_the_same_moment_one_starts_it(stack: Stack) -> None:
    site = make_site("lb1", "lb2")
    change = site.approved(service_data("web"))
    start = timezone.now() + timedelta(seconds=30)
    schedule_change(actor=site.operator, change=change, starts_at=start, ends_at=start + timedelta(minutes=5))
    later = start + timedelta(seconds=1)
    site.see_nodes(at=later)

    at_once(*[lambda: run_due_windows(cluster=site.cluster, clock=lambda: later)] * AT_ONCE)

    assert Window.objects.get().state == "started"
    assert Deployment.objects.count() == 1
    assert len(events("window.started")) == 1
