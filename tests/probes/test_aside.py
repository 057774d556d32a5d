"""What a worker does while a round of questions waits for answers."""

import threading

import pytest

from balancer.probes import aside
from balancer.probes.aside import run_aside


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "MEANWHILE_SECONDS", 0.01)


def test_the_callers_own_thread_goes_on_with_something_else_until_the_work_ends() -> None:
    seen, enough = [], threading.Event()

    def meanwhile() -> None:
        seen.append(threading.current_thread())
        if len(seen) == 3:
            enough.set()

    assert run_aside(lambda: enough.wait(5), meanwhile=meanwhile)
    assert set(seen) == {threading.current_thread()}


def test_what_is_answered_at_once_leaves_no_time_for_anything_else() -> None:
    seen: list[int] = []
    assert run_aside(lambda: 7, meanwhile=lambda: seen.append(1)) == 7
    assert len(seen) <= 1


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run_aside(lambda: 1 // 0, meanwhile=lambda: None)
