"""The guard's loop: reboots, restarts, damaged files, busy kernels, and the race for the last moment."""

import ast
import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.types import Family
from balancer.kernel import guard_state, guardian
from balancer.kernel.base import Busy, Kernel, Receipt, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import NoGuard, TooLate
from balancer.kernel.guard_files import GuardError
from tests.kernel.guards import NETWORK, Machine, candidate, confirmed

OLD, NEW = confirmed(1, 80), confirmed(2, 80, 81)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    found = Machine(path=tmp_path / "guard")
    found.sync(OLD)
    found.start()
    return found


def applied(machine: Machine, *, seconds: float = 30) -> str:
    """NEW is in the kernel and nobody has confirmed it."""
    token = machine.worker_side().arm(confirmed=OLD, candidate=candidate(2), seconds=seconds)
    machine.sync(NEW)
    return token


def test_a_guard_that_is_killed_and_started_again_goes_on_waiting(machine: Machine) -> None:
    applied(machine)
    machine.kill()
    machine.now += 20
    machine.start()

    machine.advance(9)
    assert machine.carries(NEW)
    machine.advance(1)
    assert machine.carries(OLD)


def test_a_guard_that_was_away_at_the_deadline_goes_back_when_it_returns(machine: Machine) -> None:
    applied(machine)
    machine.kill()
    machine.now += 500
    machine.start()

    machine.tick()

    outcome = machine.files.read_outcome()
    assert outcome is not None
    assert (machine.carries(OLD), outcome.late) == (True, 470)


@pytest.mark.parametrize("moment", ["before the kernel", "before the outcome", "before the end"])
def test_a_guard_that_dies_while_it_goes_back_ends_it_the_next_time(
    machine: Machine, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(machine)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    name = {"before the outcome": "write_outcome", "before the end": "drop_restoring"}.get(moment)
    target = (FakeKernel, "sync") if name is None else (guard_state.GuardDirectory, name)
    monkeypatch.setattr(*target, die)
    with pytest.raises(KeyboardInterrupt):
        machine.advance(30)
    monkeypatch.undo()
    machine.kill()
    machine.start()
    machine.tick()

    outcome = machine.files.read_outcome()
    assert (machine.carries(OLD), outcome and outcome.given_up) == (True, 2)
    assert not machine.files.is_restoring()


def test_after_a_reboot_the_confirmed_rules_are_loaded_and_nothing_is_told_as_a_rollback(
    machine: Machine,
) -> None:
    machine.worker_side().remember(confirmed=OLD)
    machine.reboot()
    machine.start()

    machine.tick()

    assert machine.carries(OLD)
    assert machine.files.read_outcome() is None
    machine.kernel.remove()
    machine.sync(NEW)
    machine.kill()
    machine.start().tick()
    assert machine.carries(NEW), "restarted in the same boot it leaves what differs alone"


def test_a_reboot_with_a_confirm_pending_loads_the_last_confirmed_rules(machine: Machine) -> None:
    applied(machine, seconds=3000)
    machine.reboot()
    machine.start()

    machine.tick()

    outcome = machine.files.read_outcome()
    assert outcome is not None
    assert (machine.carries(OLD), outcome.why, outcome.late) == (True, "reboot", None)
    assert "started again before revision 2 was confirmed" in outcome.text


def test_a_namespace_that_was_made_anew_gets_its_rules_back(machine: Machine) -> None:
    machine.worker_side().remember(confirmed=OLD)
    machine.kill()
    machine.kernel = FakeKernel()

    machine.start().tick()

    assert machine.carries(OLD)


def test_a_first_start_waits_for_the_worker(machine: Machine) -> None:
    machine.kernel.remove()
    machine.tick()

    assert machine.kernel.compare(ruleset=guardian.nothing_of_ours(Family.IPV4)).in_sync
    assert applied(machine)


def test_a_damaged_confirmed_state_gives_way_to_the_previous_good_copy(machine: Machine) -> None:
    applied(machine)
    (machine.path / "confirmed.json").write_bytes(b"torn")

    machine.advance(30)

    outcome = machine.files.read_outcome()
    assert machine.carries(OLD)
    assert outcome is not None
    assert "is damaged" in outcome.text
    assert "The previous good copy, revision 1, is used." in outcome.text


def test_a_damaged_pending_apply_is_undone_at_once(machine: Machine) -> None:
    applied(machine)
    (machine.path / "pending.json").write_bytes(b"torn")

    machine.tick()

    outcome = machine.files.read_outcome()
    assert (machine.carries(OLD), outcome and outcome.why) == (True, "damaged")


def test_with_nothing_to_put_back_it_says_so_and_goes_on_trying(machine: Machine) -> None:
    applied(machine)
    for path in machine.path.glob("confirmed*"):
        path.write_bytes(b"torn")

    for _ in range(2):
        with pytest.raises(GuardError, match="damaged"):
            machine.advance(30)
    assert machine.carries(NEW)
    machine.worker_side().remember(confirmed=NEW)
    machine.tick()


class Stubborn(FakeKernel):
    """Refuses the first writes that it is asked for."""

    def __init__(self, *refusals: Exception) -> None:
        super().__init__()
        self.refusals = list(refusals)

    def sync(self, **arguments: Any) -> Receipt:
        if self.refusals:
            raise self.refusals.pop(0)
        return super().sync(**arguments)


def test_a_kernel_that_is_busy_or_refuses_is_asked_again_until_it_takes_the_rules(tmp_path: Path) -> None:
    kernel = Stubborn()
    machine = Machine(path=tmp_path / "guard", kernel=kernel)
    machine.sync(OLD)
    machine.start()
    applied(machine)
    kernel.refusals = [Busy("Somebody has the lock."), Rejected("No."), ZeroDivisionError("oops")]

    machine.advance(30)
    for _ in range(3):
        assert machine.carries(NEW)
        machine.advance(0.5)

    outcome = machine.files.read_outcome()
    assert (machine.carries(OLD), outcome and outcome.late) == (True, 1.5)


def test_a_driver_that_fails_gives_way_to_the_next(tmp_path: Path) -> None:
    good = FakeKernel()
    kernels: list[Kernel] = [Stubborn(*[Rejected("No.")] * 99), good]
    machine = Machine(path=tmp_path / "guard", kernel=good, kernels=kernels)
    machine.sync(OLD)
    machine.start()
    applied(machine)

    machine.advance(30)
    machine.tick()

    assert machine.carries(OLD)


def test_a_worker_that_died_between_the_confirm_and_its_end_has_confirmed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = applied(machine)
    monkeypatch.setattr(guard_state.GuardDirectory, "drop_pending", lambda _: None)
    machine.worker_side().confirm(token=token, confirmed=NEW)
    monkeypatch.undo()
    assert machine.files.has_pending()

    machine.advance(60)

    assert machine.carries(NEW)
    assert (machine.files.has_pending(), machine.files.read_outcome()) == (False, None)


def test_a_worker_that_brought_the_kernel_elsewhere_is_not_overruled(machine: Machine) -> None:
    """The guard has claimed the apply, and its first try found the kernel busy."""
    machine.kernel = kernel = Stubborn(Busy("Somebody has the lock."))
    machine.kill()
    machine.start()
    token = machine.worker_side().arm(confirmed=OLD, candidate=candidate(2), seconds=30)
    machine.advance(30)
    assert machine.files.is_restoring()

    kernel.refusals = []
    machine.sync(NEW)
    machine.worker_side().remember(confirmed=NEW)
    machine.tick()

    assert machine.carries(NEW)
    with pytest.raises(TooLate):
        machine.worker_side().require_armed(token=token)


def test_of_a_confirm_and_the_deadline_exactly_one_wins(tmp_path: Path) -> None:
    for number in range(20):
        machine = Machine(path=tmp_path / f"guard{number}")
        machine.sync(OLD)
        machine.start()
        token = applied(machine)
        worker, together, confirms = machine.worker_side(), threading.Barrier(2), []

        def confirm(
            worker: Any = worker, token: str = token, together: Any = together, confirms: Any = confirms
        ) -> None:
            together.wait()
            try:
                worker.confirm(token=token, confirmed=NEW)
                confirms.append(True)
            except TooLate:
                confirms.append(False)

        thread = threading.Thread(target=confirm)
        thread.start()
        together.wait()
        machine.now += 30 if number % 2 else 31
        machine.tick()
        thread.join()
        machine.tick()
        restored = machine.files.read_outcome() is not None
        assert confirms == [not restored]
        assert machine.carries(OLD if restored else NEW)
        machine.kill()


@pytest.mark.parametrize("day", [-86_400, 86_400])
def test_the_wall_clock_has_no_say(machine: Machine, day: int) -> None:
    applied(machine)
    machine.stamp = "1970-01-01T00:00:00+00:00" if day < 0 else "2099-01-01T00:00:00+00:00"

    machine.advance(29)
    assert machine.carries(NEW)
    machine.advance(1)
    assert machine.carries(OLD)


def test_nothing_that_decides_reads_the_time_of_day() -> None:
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for module in (guardian, guard_state)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert not names & {
        "time",
        "datetime",
        "now",
        "utcnow",
        "gmtime",
        "localtime",
        "clock_gettime",
        "st_mtime",
    }


def test_a_guard_that_runs_but_does_not_look_is_no_guard(machine: Machine) -> None:
    machine.guardian = None  # its process lives and holds the lock, and does nothing

    with pytest.raises(NoGuard, match="has not answered within 5 seconds"):
        machine.worker_side().arm(confirmed=OLD, candidate=candidate(2), seconds=30)
    assert not machine.files.has_pending()


def test_a_guard_in_another_namespace_is_no_guard(machine: Machine) -> None:
    worker = machine.worker_side()
    worker._network = NETWORK + 1

    with pytest.raises(NoGuard, match="another network namespace"):
        worker.arm(confirmed=OLD, candidate=candidate(2), seconds=30)
    assert not machine.files.has_pending()


def test_a_deadline_is_over_though_the_guard_has_not_looked_yet(machine: Machine) -> None:
    token = applied(machine)
    machine.now += 30

    with pytest.raises(TooLate, match="The time to confirm revision 2 is over"):
        machine.worker_side().confirm(token=token, confirmed=NEW)
    with pytest.raises(TooLate):
        machine.worker_side().require_armed(token=token)

    machine.tick()
    assert machine.carries(OLD)


def test_a_guard_that_waited_for_the_kernel_writes_nothing_over_what_came_meanwhile(tmp_path: Path) -> None:
    class Contended(FakeKernel):
        meanwhile: Any = None

        def sync(self, **arguments: Any) -> Receipt:
            first, self.meanwhile = self.meanwhile, None
            if first:
                first()
            return super().sync(**arguments)

    kernel = Contended()
    machine = Machine(path=tmp_path / "guard", kernel=kernel)
    machine.sync(OLD)
    machine.start()
    applied(machine)

    def converge() -> None:
        machine.sync(NEW)
        machine.worker_side().remember(confirmed=NEW)

    kernel.meanwhile = converge
    machine.advance(30)
    machine.tick()

    assert machine.carries(NEW)
    assert machine.files.read_outcome() is None
