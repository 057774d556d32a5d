"""The guard's files: what is damaged is noticed, and a crash leaves the old value or the new one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balancer.kernel import guard_files
from balancer.kernel.guard_files import Damaged, GuardError
from balancer.kernel.guard_state import Confirmed, GuardDirectory, Outcome, Pending, Why
from tests.kernel.guards import confirmed

OLD, NEW = confirmed(1, 80), confirmed(2, 80, 81)
PENDING = Pending(
    token="t", job="j", cluster="edge", revision=2, digest="d", seconds=5, deadline=17.5, boot_id="b"
)
OUTCOME = Outcome(
    token="t",
    job="j",
    cluster="edge",
    given_up=2,
    restored=1,
    digest="d",
    why=Why.DEADLINE,
    text="So.",
    late=0.2,
    at="",
)


@pytest.fixture
def files(tmp_path: Path) -> GuardDirectory:
    found = GuardDirectory(tmp_path / "guard")
    found.prepare()
    return found


def test_what_was_written_is_read_again(files: GuardDirectory) -> None:
    assert (files.read_confirmed(), files.read_pending(), files.read_outcome()) == ((None, ""), None, None)

    files.write_confirmed(OLD)
    files.write_pending(PENDING)
    files.write_outcome(OUTCOME)

    assert (files.read_confirmed(), files.read_pending()) == ((OLD, ""), PENDING)
    assert files.read_outcome() == OUTCOME


def test_every_byte_that_changes_and_every_missing_end_is_noticed(files: GuardDirectory) -> None:
    files.write_pending(PENDING)
    path = files.path / "pending.json"
    whole = path.read_bytes()
    spoilt = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    spoilt += [whole[:i] for i in range(len(whole))]

    for raw in spoilt:
        path.write_bytes(raw)
        with pytest.raises(Damaged, match=r"pending\.json of the guard is damaged"):
            files.read_pending()


def test_a_file_of_somebody_else_is_not_used(files: GuardDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_pending(PENDING)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)

    with pytest.raises(Damaged, match="belongs to somebody else"):
        files.read_pending()


def test_a_file_of_one_kind_in_the_place_of_another_is_damaged(files: GuardDirectory) -> None:
    files.write_outcome(OUTCOME)
    os.rename(files.path / "outcome.json", files.path / "pending.json")

    with pytest.raises(Damaged):
        files.read_pending()


@pytest.mark.parametrize("writes", [1, 2])
def test_a_damaged_confirmed_state_gives_way_to_the_good_copy_and_says_so(
    files: GuardDirectory, writes: int
) -> None:
    for state in (OLD, NEW)[:writes]:
        files.write_confirmed(state)
    (files.path / "confirmed.json").write_bytes(b"\0" * 400)

    found, note = files.read_confirmed()

    assert found == OLD
    assert "confirmed.json of the guard is damaged" in note
    assert note.endswith("The previous good copy, revision 1, is used.")


def test_a_new_state_never_pushes_the_last_good_copy_out_by_a_damaged_one(files: GuardDirectory) -> None:
    files.write_confirmed(OLD)
    (files.path / "confirmed.json").write_bytes(b"nothing")

    files.write_confirmed(NEW)
    (files.path / "confirmed.json").write_bytes(b"nothing again")

    assert files.read_confirmed()[0] == OLD


class Crash(BaseException):
    """The process is gone at this moment."""


class Machine:
    """Dies before the n-th of the calls by which a file gets to the disk."""

    CALLS = ("open", "write", "fsync", "replace", "link")

    def __init__(self, *, dies_before: int) -> None:
        self.left = dies_before

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        return self._counted(found) if name in self.CALLS else found

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left == 0:
                raise Crash
            self.left -= 1
            if function is os.write:  # half of it gets there
                return os.write(args[0], bytes(args[1])[: max(1, len(args[1]) // 2)])
            return function(*args, **kwargs)

        return call


def test_a_crash_at_any_step_leaves_the_old_value_or_the_new_one(
    files: GuardDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Confirmed | None] = []
    for step in range(200):
        files.write_confirmed(OLD)
        machine = Machine(dies_before=step)
        monkeypatch.setattr(guard_files, "os", machine)
        try:
            files.write_confirmed(NEW)
        except Crash:
            pass
        finally:
            monkeypatch.setattr(guard_files, "os", os)
        state, note = files.read_confirmed()
        assert note == ""
        found.append(state)
        if machine.left:
            break

    assert {state and state.revision for state in found} == {1, 2}
    assert found.index(NEW) > 5


def test_a_disk_that_is_full_is_an_error_in_words_and_the_old_value_stays(
    files: GuardDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_confirmed(OLD)

    class Full:
        def __getattr__(self, name: str) -> Any:
            if name == "write":
                raise OSError(28, "No space left on device")
            return getattr(os, name)

    monkeypatch.setattr(guard_files, "os", Full())
    with pytest.raises(GuardError, match="could not be written: No space left on device"):
        files.write_confirmed(NEW)
    monkeypatch.undo()

    assert files.read_confirmed() == (OLD, "")


def test_a_directory_that_others_could_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    with pytest.raises(GuardError, match="has to belong to the account of worker and guard alone"):
        GuardDirectory(tmp_path).prepare()
