"""The node goes back by itself: real workers and guards are killed, kernels are real, an uplink goes away."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dj_database_url
import pytest

from balancer.domain.codec import load_document
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.guard import FileGuard, read_boottime
from balancer.kernel.guard_state import Confirmed, GuardDirectory, Pending
from balancer.kernel.node import NodeKernel
from balancer.models import Cluster, Deployment, Job, Node, Revision
from balancer.ruleset.compile import compile_document
from balancer.workflow.revisions import live_revision
from tests.documents import service_data
from tests.kernel.guards import confirmed
from tests.kernel.machine import Namespace
from tests.stack.machinery import Process, Stack, eventually
from tests.stack.site import LEGACY, NFT, events, make_site, wait_for_end, wait_for_worker
from tests.stopwatch import Stopwatch

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
ROUNDS = 20 if CAMPAIGN else 1
POINTS = range(400) if CAMPAIGN else random.Random().sample(range(40), 2)
LATE_MAX = 5.0
"""Seconds after the deadline by which the old rules have to be back."""
SECONDS = 5
FAULTY = {"DJANGO_SETTINGS_MODULE": "tests.stack.faulty"}
RELAY = """
import asyncio, sys
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def main():
    async def serve(port, path):
        async def relay(reader, writer):
            far_reader, far_writer = await asyncio.open_unix_connection(path)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        await asyncio.start_server(relay, "192.0.2.2", port)
    for pair in sys.argv[1:]:
        port, _, path = pair.partition(":")
        await serve(int(port), path)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
"""Broker and database, behind the node's uplink: TCP there, the sockets of the test's servers here."""


class Uplink:
    """A node whose way to broker and database is one interface."""

    def __init__(self, *, stack: Stack, database_url: str) -> None:
        self.node, self.core = Namespace(), Namespace()
        far = f"/proc/{os.getpid()}/fd/{self.core.descriptor}"
        with self.node.entered():
            run("ip link add eth0 type veth peer name eth0 netns", far)
            run("ip address add 192.0.2.1/30 dev eth0")
            run("ip link set eth0 up")
        with self.core.entered():
            run("ip address add 192.0.2.2/30 dev eth0")
            run("ip link set eth0 up")
        pairs = [f"6379:{stack.directory / 'broker.sock'}"]
        self.env = {"LBADMIN_REDIS_URL": "redis://192.0.2.2:6379/0"}
        if database_url.startswith("postgres"):
            config = dj_database_url.parse(database_url)
            pairs.append(f"5432:{config['HOST']}/.s.PGSQL.5432")
            self.env["DATABASE_URL"] = f"postgres://lbadmin@192.0.2.2:5432/{config['NAME']}"
        log = stack.directory / "relay.log"
        self.relay = Process(sys.executable, "-c", RELAY, *pairs, log=log, env=os.environ, inside=self.core)
        eventually(lambda: "ready" in log.read_text(), what="the start of the relay")

    def up(self) -> None:
        with self.node.entered():
            run("ip link set eth0 up")

    def close(self) -> None:
        self.relay.close()
        self.node.close()
        self.core.close()


def run(command: str, *more: str) -> None:
    subprocess.run([*command.split(), *more], check=True)


@pytest.fixture
def uplink(stack: Stack, database_url: str) -> Iterator[Uplink]:
    found = Uplink(stack=stack, database_url=database_url)
    yield found
    found.close()


def give_little_time() -> None:
    """From now on the guard goes back soon; a busy machine may be too slow for a confirm by then."""
    Cluster.objects.update(confirm_seconds=SECONDS)


def carries(state: Confirmed | Revision, *, inside: Namespace, flavour: Flavour) -> bool:
    document, _ = load_document(state.document)
    assert document is not None
    with inside.entered():
        kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
        return kernel.compare(ruleset=compile_document(document)).in_sync


def wait_for_agreement(deployment: Deployment, *, inside: Namespace, flavour: Flavour) -> float:
    """Seconds until the rows say what the node carries, which is the old or the new."""
    began = time.monotonic()

    def agree() -> bool:
        deployment.refresh_from_db()
        node, live = Node.objects.get(name="lb1"), live_revision(deployment.cluster)
        busy = Job.objects.filter(state__in=["queued", "running", "unconfirmed"]).exists()
        return (
            deployment.state != "running"
            and not busy
            and node.carried_revision == live
            and carries(live, inside=inside, flavour=flavour)
        )

    eventually(agree, what="that rows and node agree")
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("database_url", "env"),
    [("sqlite", LEGACY), ("postgresql", NFT)],
    indirect=["database_url"],
    ids=["sqlite-legacy", "postgresql-nft"],
)
def test_a_ruleset_that_cuts_the_node_off_is_gone_again_though_its_worker_is_dead(
    stack: Stack, uplink: Uplink, env: dict[str, str]
) -> None:
    site, flavour, fault = make_site("lb1"), Flavour(env["LBADMIN_FLAVOUR"]), stack.directory / "fault"
    options: dict[str, Any] = {**env, **FAULTY, **uplink.env, "LBADMIN_FAULT": str(fault)}
    worker = stack.worker("lb1", inside=uplink.node, **options)
    stack.beat()
    wait_for_worker("lb1", stack=stack)
    files, lateness = GuardDirectory(stack.guard_directory("lb1")), []
    old = wait_for_end(site.start(service_data("web"))).revision
    assert live_revision(site.cluster) == old
    give_little_time()

    for number in range(ROUNDS):
        fault.write_text("cut after-commit")
        # It takes what comes in for the ports of broker and database; that alone does not cut off a node
        # which is their client, so its uplink goes down with the commit.
        deployment = site.start(service_data("broker", port=6379), service_data("database", port=5432))
        pending = eventually(files.read_pending, what="the arming")
        eventually(lambda w=worker: not w.runs, what="the death of the worker")
        carried = carries(deployment.revision, inside=uplink.node, flavour=flavour)
        assert carried or read_boottime() > pending.deadline, "it was seen in time, but there was nothing new"
        due = pending.deadline
        if number % 2 == 0:
            stack.guards["lb1"].kill()
            time.sleep(random.uniform(0, SECONDS - 1))
            stack.guard("lb1", inside=uplink.node, **env)
            eventually(FileGuard(directory=files.path).is_alive, what="the start of the next guard")
            due = max(due, read_boottime())
        watch = Stopwatch()
        eventually(lambda: carries(old, inside=uplink.node, flavour=flavour), what="the way back")
        now = read_boottime()
        assert now >= pending.deadline
        lateness.append(now - due)
        assert lateness[-1] <= LATE_MAX + watch.stalled

        uplink.up()
        worker = stack.worker("lb1", inside=uplink.node, **options)
        seconds = wait_for_agreement(deployment, inside=uplink.node, flavour=flavour)
        assert (deployment.state, live_revision(site.cluster)) == ("rolled-back", old)
        assert events("guard.restored")[-1]["given_up"] == deployment.revision.number
        print(f"back {lateness[-1]:.2f} s late; rows agree {seconds:.1f} s after the worker's start")
    print(f"at most {max(lateness):.2f} s late in {ROUNDS} rounds")


@pytest.mark.parametrize("env", [LEGACY, NFT] if CAMPAIGN else [NFT], ids=lambda env: env["LBADMIN_FLAVOUR"])
def test_a_worker_that_is_killed_at_any_step_leaves_old_or_new_and_the_rows_agree(
    stack: Stack, namespace: Namespace, env: dict[str, str]
) -> None:
    site, flavour, fault = make_site("lb1"), Flavour(env["LBADMIN_FLAVOUR"]), stack.directory / "fault"
    options = {**env, **FAULTY, "LBADMIN_FAULT": str(fault)}
    worker = stack.worker("lb1", inside=namespace, **options)
    stack.beat()
    wait_for_worker("lb1", stack=stack)
    assert wait_for_end(site.start(service_data("web"))).state == "succeeded"
    give_little_time()
    states = []
    for number, point in enumerate(POINTS):
        old = live_revision(site.cluster)
        fault.write_text(f" {point}")
        deployment = site.start(service_data("web", port=1000 + point))
        eventually(lambda w=worker, d=deployment: not w.runs or has_ended(d), what="the fault or the end")
        if worker.runs:
            break  # there are no more steps
        if number % 2:
            time.sleep(SECONDS + 1)  # the guard does not wait for it
        worker = stack.worker("lb1", inside=namespace, **options)
        wait_for_agreement(deployment, inside=namespace, flavour=flavour)
        new = deployment.revision if deployment.state == "succeeded" else old
        assert live_revision(site.cluster) == new, f"point {point}"
        states.append(deployment.state)
    print(f"{len(states)} kills: {sorted(states)}")
    assert states


def has_ended(deployment: Deployment) -> bool:
    deployment.refresh_from_db()
    return deployment.state != "running"


def test_without_a_guard_the_job_fails_and_says_what_to_start(stack: Stack, namespace: Namespace) -> None:
    site = make_site("lb1")
    stack.worker("lb1", inside=namespace, guarded=False, **NFT)
    wait_for_worker("lb1", stack=stack)

    deployment = wait_for_end(site.start(service_data("web")))

    assert deployment.state == "failed"
    assert "No guard, no apply" in deployment.error
    assert "python -m lbadmin.guard" in deployment.error


@pytest.mark.parametrize("env", [LEGACY, NFT], ids=["legacy", "nft"])
def test_a_guard_on_an_empty_kernel_loads_the_last_confirmed_rules_at_boot(
    directory: Path, namespace: Namespace, env: dict[str, str]
) -> None:
    """A reboot in the middle of an apply: the boot id in the files is another one."""
    files, old, new = GuardDirectory(directory / "guard"), confirmed(1, 80), confirmed(2, 80, 81)
    files.prepare()
    files.write_confirmed(old)
    files.write_confirmed(new)
    (files.path / "confirmed.json").write_bytes(b"torn")
    files.write_pending(
        Pending(
            token="t",
            job="j",
            cluster="edge",
            revision=3,
            digest="d",
            seconds=3600,
            deadline=1e9,
            boot_id="another",
        )
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("LBADMIN_")}
    paths = {
        "LBADMIN_GUARD_DIR": str(files.path),
        "LBADMIN_LOCK_DIR": str(directory / "locks"),
        "XTABLES_LOCKFILE": str(directory / "xtables"),
    }
    log = directory / "guard.log"
    guard = Process(sys.executable, "-m", "lbadmin.guard", log=log, env=own | env | paths, inside=namespace)
    try:
        outcome = eventually(files.read_outcome, what="the guard's boot")
    finally:
        guard.close()

    assert carries(old, inside=namespace, flavour=Flavour(env["LBADMIN_FLAVOUR"]))
    assert (outcome.why, outcome.given_up, outcome.restored) == ("reboot", 3, 1)
    assert "is damaged" in log.read_text()
