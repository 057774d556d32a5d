"""kill -9 of the worker at any moment of an apply: tables are old or new, and it ends well by itself."""

import json
import os
import random
import time

import pytest

from balancer.kernel.base import Flavour
from balancer.models import Deployment, Job, Node
from balancer.workflow.revisions import live_revision
from tests.cast import Site
from tests.documents import Data, service_data
from tests.kernel.machine import Namespace, own_part, save
from tests.stack.machinery import Process, Stack, eventually
from tests.stack.site import LEGACY, NFT, carries_live, events, make_site, wait_for_end, wait_for_worker

KILLS = max(int(os.environ.get("LBADMIN_CAMPAIGN") or 0), 1) * (50 if "LBADMIN_CAMPAIGN" in os.environ else 3)
Tables = dict[str, tuple[str, ...]]


class Victim:
    """The worker of lb1 under a supervisor that starts it again when it ends."""

    def __init__(self, *, stack: Stack, inside: Namespace, env: dict[str, str]) -> None:
        self.stack, self.inside, self.env = stack, inside, env
        self.worker = self._start()

    def _start(self) -> Process:
        return self.stack.worker("lb1", inside=self.inside, **self.env)

    def kill(self, *, who: str) -> None:
        """The main process (what it forked lives on), the child of its pool, or all."""
        if who == "child":
            for child in self.worker.children():
                os.kill(child, 9)
            return
        if who == "all":
            self.worker.close()
        else:
            self.worker.kill()
        self.supervise()

    def supervise(self) -> None:
        """As supervisord does: one that has ended, for whatever reason, is started again."""
        if not self.worker.runs:
            self.worker = self._start()


def version(number: int) -> tuple[Data, ...]:
    """Every service differs from one version to the next, so that both tables are rewritten whole."""
    scheduler = ("round-robin", "random")[number % 2]
    access = {"drop_invalid": number % 2 == 0}
    return tuple(
        service_data(f"s{i}", port=1000 + i, scheduler=scheduler, access=access, description=str(number))
        for i in range(30)
    )


@pytest.mark.parametrize(
    ("database_url", "env"),
    [("sqlite", LEGACY), ("postgresql", NFT)],
    indirect=["database_url"],
    ids=["sqlite-legacy", "postgresql-nft"],
)
def test_a_killed_worker_leaves_whole_tables_and_the_node_converges_by_itself(
    stack: Stack, namespace: Namespace, env: dict[str, str]
) -> None:
    site, flavour = make_site("lb1"), Flavour(env["LBADMIN_FLAVOUR"])
    victim = Victim(stack=stack, inside=namespace, env=env)
    stack.beat()
    wait_for_worker("lb1", stack=stack)
    duration, moments = measure(site), random.Random()
    seed = moments.getrandbits(32)
    print(f"seed {seed}; an apply takes {duration:.2f} s")
    moments.seed(seed)

    for number in range(KILLS):
        known = [tables(inside=namespace, flavour=flavour)]
        who = ("main", "child", "all")[number % 3]
        deployment = site.start(*version(number))
        time.sleep(moments.uniform(0, duration))
        victim.kill(who=who)
        observed = watch(deployment, victim=victim, flavour=flavour)
        assert deployment.state == "succeeded", (who, deployment.error)
        known.append(tables(inside=namespace, flavour=flavour))
        assert_whole(observed, known)
        assert_settled(site, deployment, inside=namespace, flavour=flavour)
    interrupted = len(events("job.requeued"))
    print(f"{interrupted} of {KILLS} kills came in the middle of a job")
    assert interrupted or KILLS < 50, "no kill came in time"


def measure(site: Site) -> float:
    """Seconds from the button to the end, undisturbed; the second time, without what happens only once."""
    wait_for_end(site.start(*version(1)))
    began = time.monotonic()
    wait_for_end(site.start(*version(0)))
    assert wait_for_end(site.start(*version(1))).state == "succeeded"
    return (time.monotonic() - began) / 2


def watch(deployment: Deployment, *, victim: Victim, flavour: Flavour) -> list[Tables]:
    """What the kernel held, read again and again until the deployment has ended."""
    observed = []

    def ended() -> bool:
        victim.supervise()
        observed.append(tables(inside=victim.inside, flavour=flavour))
        deployment.refresh_from_db()
        return deployment.state != "running"

    eventually(ended, what="the end of the deployment")
    return observed


def tables(*, inside: Namespace, flavour: Flavour) -> Tables:
    """Read until two readings agree.

    iptables-nft-save 1.8.9 asks for chains and rules one after the other and does not notice a commit in
    between (iptables/nft-cache.c: the generation is asked for at the start only), so one reading may show
    some of the old and some of the new although the kernel never held that.
    """
    with inside.entered():
        last, now = None, own_part(save(flavour))
        while now != last:
            last, now = now, own_part(save(flavour))
    return now


def assert_whole(observed: list[Tables], known: list[Tables]) -> None:
    for found in observed:
        for table in ("filter", "nat"):
            assert found[table] in [state[table] for state in known], f"{table} is neither old nor new"


def assert_settled(site: Site, deployment: Deployment, *, inside: Namespace, flavour: Flavour) -> None:
    assert live_revision(site.cluster) == deployment.revision
    assert carries_live(site, inside=inside, flavour=flavour)
    assert not Job.objects.filter(state__in=["queued", "running"]).exists()
    node = Node.objects.get(name="lb1")
    assert (node.carried_revision, node.in_sync) == (deployment.revision, True)
    live = {service["scheduler"] for service in json.loads(deployment.revision.document)["services"]}
    assert set(site.cluster.services.values_list("scheduler", flat=True)) == live
