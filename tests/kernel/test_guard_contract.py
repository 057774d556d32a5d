"""What every Guard promises a worker: the one behind files with its loop, and the one in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard import Guard, NoGuard, TooLate
from balancer.kernel.guard_fake import FakeGuard
from balancer.kernel.guard_files import GuardError
from balancer.ruleset.compile import compile_document
from tests.kernel.guards import Confirmed, Machine, candidate, confirmed, document_of

OLD, NEW = confirmed(1, 80), confirmed(2, 80, 81)


class Subject:
    """A guard over a kernel that carries OLD, with a clock."""

    def __init__(
        self, *, guard: Guard, kernel: FakeKernel, advance: Callable[[float], None], kill: Callable[[], None]
    ) -> None:
        self.guard, self.kernel, self.advance, self.kill = guard, kernel, advance, kill
        self.carry(OLD)

    def carry(self, state: Confirmed) -> None:
        found = document_of(state)
        self.kernel.sync(ruleset=compile_document(found), document=found)

    def carries(self, state: Confirmed) -> bool:
        return self.kernel.compare(ruleset=compile_document(document_of(state))).in_sync

    def arm(self) -> str:
        return self.guard.arm(confirmed=OLD, candidate=candidate(2), seconds=30)


@pytest.fixture(params=["fake", "files"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Subject:
    kernel = FakeKernel()
    if request.param == "fake":
        guard = FakeGuard(kernel=kernel)

        def die() -> None:
            guard.alive = False

        return Subject(guard=guard, kernel=kernel, advance=guard.advance, kill=die)
    machine = Machine(path=tmp_path / "guard", kernel=kernel)
    machine.start()
    return Subject(guard=machine.worker_side(), kernel=kernel, advance=machine.advance, kill=machine.kill)


def test_without_a_confirm_the_old_rules_are_back_at_the_deadline_and_not_before(subject: Subject) -> None:
    token = subject.arm()
    subject.carry(NEW)

    subject.advance(29.9)
    assert (subject.carries(NEW), subject.guard.last_outcome()) == (True, None)
    assert 0 < subject.guard.remaining() < 0.2
    subject.advance(0.2)

    outcome = subject.guard.last_outcome()
    assert outcome is not None
    assert (outcome.token, outcome.job, outcome.given_up, outcome.restored) == (token, "job", 2, 1)
    assert (outcome.why, outcome.late) == ("deadline", pytest.approx(0.1, abs=0.01))
    assert "Revision 2 was not confirmed within 30 seconds" in outcome.text
    assert subject.carries(OLD)
    assert (subject.guard.pending(), subject.guard.remaining()) == (None, 0)


def test_a_confirm_in_time_is_final(subject: Subject) -> None:
    token = subject.arm()
    subject.carry(NEW)
    subject.guard.confirm(token=token, confirmed=NEW)
    subject.guard.confirm(token=token, confirmed=NEW)

    subject.advance(100)

    assert subject.carries(NEW)
    assert subject.guard.last_outcome() is None
    found = subject.guard.confirmed()
    assert found is not None
    assert (found.revision, found.job, found.token) == (2, "job", token)


def test_a_confirm_after_the_deadline_is_too_late_and_changes_nothing(subject: Subject) -> None:
    token = subject.arm()
    subject.carry(NEW)
    subject.advance(30)

    with pytest.raises(TooLate):
        subject.guard.confirm(token=token, confirmed=NEW)

    found = subject.guard.confirmed()
    assert (found and found.revision, subject.carries(OLD)) == (1, True)


def test_nothing_may_be_written_once_the_guard_goes_back(subject: Subject) -> None:
    token = subject.arm()
    subject.guard.require_armed(token=token)
    subject.advance(30)

    with pytest.raises(TooLate):
        subject.guard.require_armed(token=token)


def test_what_was_disarmed_is_not_undone(subject: Subject) -> None:
    token = subject.arm()
    subject.guard.disarm(token=token)

    subject.advance(100)

    assert (subject.guard.pending(), subject.guard.last_outcome()) == (None, None)


def test_without_a_guard_nothing_can_be_armed(subject: Subject) -> None:
    assert subject.guard.is_alive()
    subject.kill()

    assert not subject.guard.is_alive()
    with pytest.raises(NoGuard, match=r"^No guard, no apply: .* Start it beside the worker"):
        subject.arm()
    assert subject.guard.pending() is None


def test_a_second_apply_waits_for_the_first_to_be_decided(subject: Subject) -> None:
    subject.arm()

    with pytest.raises(GuardError, match="Revision 2 still waits for its confirm"):
        subject.guard.arm(confirmed=OLD, candidate=candidate(3), seconds=30)

    pending = subject.guard.pending()
    assert (pending and pending.revision) == 2


def test_what_a_convergence_brought_is_remembered_and_ends_what_waited(subject: Subject) -> None:
    subject.arm()
    subject.carry(NEW)
    subject.guard.remember(confirmed=NEW)

    subject.advance(100)

    found = subject.guard.confirmed()
    assert (found and found.revision, found and found.token) == (2, "")
    assert (subject.carries(NEW), subject.guard.last_outcome()) == (True, None)
