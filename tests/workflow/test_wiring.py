"""From settings to kernels: which node a worker is, and which driver it uses."""

import threading
from pathlib import Path

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from balancer import wiring
from balancer.kernel.base import Rejected
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import FileGuard
from balancer.kernel.guard_fake import OffGuard
from balancer.models import AuditEvent, Node
from balancer.probes.health.passive import CannotLook
from balancer.tasks import apply_job, confirm_job, node_tick, rehearse
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.queue import APPLY_JOB, CONFIRM_JOB, NODE_TICK, REHEARSE
from lbadmin import worker
from lbadmin.envelope import TASKS
from tests.cast import Site


def remember(*, flavour: str, driver: str) -> tuple[str, str]:
    """A kernel factory that says what it was asked for."""
    return flavour, driver


@pytest.fixture
def asked(settings: Settings) -> Settings:
    settings.LBADMIN_KERNEL_FACTORY = f"{__name__}.remember"
    return settings


def test_the_driver_is_that_of_the_nodes_row(site: Site, asked: Settings) -> None:
    Node.objects.filter(name="lb1").update(driver="iptables-restore")

    assert wiring.kernel_of(node_name="lb1") == ("auto", "iptables-restore")
    assert wiring.kernel_of(node_name="lb2") == ("auto", "auto")


def test_the_environment_wins_over_the_row(site: Site, asked: Settings) -> None:
    Node.objects.filter(name="lb1").update(driver="iptables-restore")
    asked.LBADMIN_FLAVOUR, asked.LBADMIN_DRIVER = "legacy", "python-iptables"

    assert wiring.kernel_of(node_name="lb1") == ("legacy", "python-iptables")


def test_a_process_without_a_node_runs_no_job(settings: Settings) -> None:
    settings.LBADMIN_NODE = ""

    nobody = "00000000-0000-0000-0000-000000000000"
    for task in (lambda: apply_job(nobody), lambda: rehearse(nobody), node_tick):
        with pytest.raises(ImproperlyConfigured):
            task()


def test_a_worker_without_a_node_does_not_start(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.LBADMIN_NODE = ""

    assert worker.main() == 2
    assert "LBADMIN_NODE" in capsys.readouterr().err


def test_the_door_knows_every_task_and_no_other() -> None:
    assert set(TASKS) == {APPLY_JOB, CONFIRM_JOB, NODE_TICK, REHEARSE}
    assert set(TASKS) == {apply_job.name, confirm_job.name, node_tick.name, rehearse.name}


def make_fake(*, flavour: str, driver: str) -> FakeKernel:
    return FakeKernel()


def test_the_tick_after_a_job_looks_at_the_node_again(
    site: Site, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first apply turns forwarding on, which the node's page should show at once."""
    settings.LBADMIN_KERNEL_FACTORY, settings.LBADMIN_NODE = f"{__name__}.make_fake", "lb1"
    settings.LBADMIN_GUARD = "off"
    monkeypatch.setattr(wiring, "_memory", NodeMemory())

    node_tick()
    node = Node.objects.get(name="lb1")
    node_tick()
    assert Node.objects.get(name="lb1").facts_at == node.facts_at

    apply_job("00000000-0000-0000-0000-000000000000")
    node_tick()
    facts_at = Node.objects.get(name="lb1").facts_at
    assert facts_at is not None
    assert node.facts_at is not None
    assert facts_at > node.facts_at


def test_the_guard_is_off_only_where_the_setting_says_so(settings: Settings, tmp_path: Path) -> None:
    settings.LBADMIN_GUARD_DIR = str(tmp_path)
    assert isinstance(wiring.own_guard(), FileGuard)

    settings.LBADMIN_GUARD = "off"
    assert isinstance(wiring.own_guard(), OffGuard)


def test_a_broker_that_is_away_fails_its_check_in_words(settings: Settings, tmp_path: Path) -> None:
    settings.LBADMIN_REDIS_URL = f"redis+socket://{tmp_path}/absent.sock"

    probe = wiring.probe_broker()

    assert (probe.name, probe.passed) == ("broker", False)
    assert probe.text.startswith("The broker does not answer")


def test_a_confirm_hint_for_a_job_that_does_not_wait_changes_nothing(site: Site, settings: Settings) -> None:
    settings.LBADMIN_KERNEL_FACTORY, settings.LBADMIN_NODE = f"{__name__}.make_fake", "lb1"
    settings.LBADMIN_GUARD = "off"

    confirm_job("00000000-0000-0000-0000-000000000000")

    assert list(AuditEvent.objects.filter(action="worker.refused").values_list("facts__code", flat=True)) == [
        "not-waiting"
    ]


def test_connections_that_the_kernel_does_not_tell_are_said_in_its_own_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise Rejected("The program conntrack is not installed.")

    settings.LBADMIN_FLAVOUR = "nft"
    monkeypatch.setattr("balancer.kernel.looks.look_at", broken)

    with pytest.raises(CannotLook, match="conntrack is not installed"):
        wiring.look_at_connections([])


def test_the_worker_cannot_be_woken_without_a_broker_and_that_is_said(
    settings: Settings, tmp_path: Path
) -> None:
    settings.LBADMIN_NODE = "lb1"
    settings.LBADMIN_REDIS_URL = f"redis+socket://{tmp_path}/absent.sock"

    with pytest.raises(redis.RedisError):
        wiring.wake_own_node()


def test_a_tick_that_the_worker_asks_for_itself_comes_later_and_may_be_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = threading.Event()

    def wake() -> None:
        asked.set()
        raise redis.ConnectionError("no broker")

    monkeypatch.setattr(wiring, "wake_own_node", wake)
    caplog.set_level("INFO", logger=wiring.__name__)
    wiring.wake_own_node_in(0.01)
    assert asked.wait(5)
    for timer in [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]:
        timer.join(5)
    assert "no broker" in caplog.text
