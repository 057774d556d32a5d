"""Nothing of the machine it was written on, and nothing unlocked, is in the tree."""

import re

import pytest

from tests.architecture.tree import ROOT, matches

LOCKS = ("requirements-build", "requirements", "requirements-dev")


def test_no_registry_host_is_written_down() -> None:
    assert matches(r"https?://[a-z0-9.-]*(pypi|pythonhosted|npmjs|debian)\.[a-z]+") == []


def test_no_path_of_one_machine_is_written_down() -> None:
    assert matches(r"(?<![\w.])/(root|work|farm)/|(?<![\w.])/tmp/[a-z]+") == []


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_pins_every_dependency_with_hashes_and_names_no_index(name: str) -> None:
    lock = (ROOT / f"{name}.txt").read_text()
    entries = re.split(r"\n(?=\S)", lock.strip())

    assert [
        entry for entry in entries if not re.match(r"[a-z0-9-]+==\S+", entry) or "--hash=sha256:" not in entry
    ] == []


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_all_that_is_asked_for(name: str) -> None:
    asked = re.findall(r"^([a-z][a-z0-9-]*)", (ROOT / f"{name}.in").read_text(), re.MULTILINE)
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / f"{name}.txt").read_text(), re.MULTILINE)

    assert asked
    assert set(asked) - set(locked) == set()
