"""The guard's process: what it refuses to start on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.guards import Machine
from tests.kernel.machine import Namespace

ROOT = Path(__file__).parents[2]


def start(directory: Path) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LBADMIN_")}
    return subprocess.run(
        [sys.executable, "-m", "lbadmin.guard"],
        cwd=ROOT,
        env={**own, "LBADMIN_GUARD_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.kernel
def test_it_does_not_start_in_the_machines_own_namespace_without_a_word_for_it(tmp_path: Path) -> None:
    found = start(tmp_path / "guard")

    assert found.returncode == 2
    assert "Refusing to write" in found.stderr
    assert not (tmp_path / "guard").exists()


@pytest.mark.kernel
def test_a_second_guard_of_a_node_does_not_start(tmp_path: Path) -> None:
    machine = Machine(path=tmp_path / "guard")
    machine.start()
    namespace = Namespace()

    with namespace.entered():
        found = start(machine.path)

    namespace.close()
    assert found.returncode == 2
    assert "Another process has held" in found.stderr
