"""What health checks find, in real kernels: how soon, how often, and while an apply waits for its confirm."""

import time
from datetime import datetime
from itertools import pairwise

from django.db import transaction
from django.utils import timezone

from balancer.kernel.base import Flavour
from balancer.models import Cluster, Deployment, HealthEvent, Job, Node, NodeHealth
from balancer.workflow.confirmations import confirm_deployment
from balancer.workflow.health import record_standings
from balancer.workflow.queue import publish_tick_on_commit
from tests.cast import Site
from tests.kernel.machine import Namespace
from tests.stack.machinery import PATIENCE, Stack, eventually
from tests.stack.site import LEGACY, NFT, events, make_site, wait_for_end, wait_for_worker
from tests.stack.test_overrides import Places, chosen, is_chosen, wait_for_choice
from tests.workflow.healing import standing, web

GONE = "10.0.0.3:80"
SECONDS = 3.0
"""Within which a finding is in the kernel; measured: 0.2 to 0.3."""
FLAPS_FOR = 4.0


def say(node: str, *, up: bool) -> None:
    """What a health daemon does."""
    with transaction.atomic():
        record_standings(node, [standing(GONE, up=up, at=timezone.now())], clock=timezone.now)
        publish_tick_on_commit(Node.objects.get(name=node))


def reaches(places: Places, *, down: bool) -> None:
    wait_for_choice(places, without_first=down, what="the finding", within=SECONDS)


def flap(node: str, place: tuple[Namespace, Flavour]) -> tuple[int, list[datetime]]:
    """The backend goes down and up twice a second; how often the kernel was seen to change, and when its
    worker says that it wrote."""
    due = begun = time.monotonic()
    last, up, changes, written = chosen(place), True, 0, {written_at(node)}
    while (now := time.monotonic()) - begun < FLAPS_FOR or is_behind(node):
        assert now - begun < FLAPS_FOR + PATIENCE
        if due <= now < begun + FLAPS_FOR:
            up, due = not up, due + 0.25
            say(node, up=up)
        text = chosen(place)
        changes, last = changes + (text != last), text
        written.add(written_at(node))
        time.sleep(0.02)
    return changes, sorted(written | {written_at(node)})


def is_behind(node: str) -> bool:
    return HealthEvent.objects.filter(node__name=node, carried_at__isnull=True).exists()


def written_at(node: str) -> datetime:
    """To the microsecond, by the worker's own clock."""
    found = NodeHealth.objects.get(node__name=node).written_at
    assert found is not None
    return found


def test_a_finding_reaches_real_kernels_at_once_and_flapping_at_most_once_a_second(stack: Stack) -> None:
    site = make_site("lb1", "lb2")
    places: Places = {"lb1": (Namespace(), Flavour.LEGACY), "lb2": (Namespace(), Flavour.NFT)}
    stack.worker("lb1", inside=places["lb1"][0], **LEGACY)
    stack.worker("lb2", inside=places["lb2"][0], **NFT)
    for node in places:
        wait_for_worker(node, stack=stack)
    check = {"kind": "tcp", "interval": 1, "timeout": 1}
    assert wait_for_end(site.start(web(health=check))).state == "succeeded"
    jobs = Job.objects.count()

    for up in (False, True):
        for node in places:
            say(node, up=up)
        reaches(places, down=not up)
        time.sleep(1)  # or the next one would wait for it
    changes, written = flap("lb2", places["lb2"])
    gaps = [(after - before).total_seconds() for before, after in pairwise(written)]
    print(f"{changes} changes in {FLAPS_FOR:g} s, written at least {min(gaps, default=0):.2f} s apart")
    assert 2 <= changes <= len(gaps), (
        "the kernel changes when the worker says that it wrote, and at no other time"
    )
    assert min(gaps) >= 1
    say("lb2", up=True)
    reaches(places, down=False)

    Cluster.objects.filter(pk=site.cluster.pk).update(confirm="manual", confirm_seconds=60)
    deployment = site.start(web(health=check, description="moved"))
    eventually(lambda: Job.objects.filter(state="unconfirmed").first(), what="the wait for a confirm")
    first = Job.objects.get(state="unconfirmed").node.name
    say(first, up=False)
    reaches({first: places[first]}, down=True)
    _confirm_all(deployment, site)
    assert wait_for_end(deployment).state == "succeeded"
    assert not is_chosen(GONE, chosen(places[first]))
    assert Node.objects.get(name=first).carried_health

    assert Job.objects.count() == jobs + 2, "no job was made for health"
    assert not HealthEvent.objects.filter(carried_at__isnull=True).exists()
    assert events("worker.refused") == []
    assert events("node.drifted") == []
    for inside, _ in places.values():
        inside.close()


def _confirm_all(deployment: Deployment, site: Site) -> None:
    """Node after node, as the roll-out comes to them."""
    for _ in range(2):
        job = eventually(lambda: deployment.jobs.filter(state="unconfirmed").first(), what="the next node")
        confirm_deployment(actor=site.operator, deployment=deployment)
        waiting = Job.objects.filter(pk=job.pk, state="unconfirmed")
        eventually(lambda one=waiting: not one.exists(), what="its confirm")
