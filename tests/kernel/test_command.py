"""manage.py kernel_sync, as a person runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import DriverName, Flavour
from tests.kernel.ipv6 import service6
from tests.kernel.machine import Namespace, save, service

SOURCE = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "document.json"
    path.write_text(json.dumps({"schema": 1, "services": [service()]}))
    return path


def kernel_sync(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # A database that is not there: the command is for recovery, too.
    environment = os.environ | {"DATABASE_URL": "postgres://nobody@localhost:1/nothing"}
    command = [sys.executable, "manage.py", "kernel_sync", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=SOURCE, env=environment, check=False)


def test_it_brings_a_document_in_and_out_and_says_what_it_did(
    namespace: Namespace, file: Path, kind: tuple[Flavour, DriverName]
) -> None:
    how = ("--flavour", kind[0], "--driver", kind[1])
    done = kernel_sync("--document", file, *how)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Table nat: wrote 9 chains" in done.stdout
    assert f"{kind[0]}, {kind[1]}, ruleset " in done.stdout
    assert "-A LB-S-web" in save(kind[0])

    assert "nothing was written" in kernel_sync("--document", file, *how).stdout

    removed = kernel_sync("--remove", *how)
    assert removed.returncode == 0
    assert "LB-" not in save(kind[0])


def test_a_document_of_both_families_comes_and_goes_whole(
    namespace: Namespace, file: Path, kind: tuple[Flavour, DriverName]
) -> None:
    how = ("--flavour", kind[0], "--driver", kind[1])
    file.write_text(json.dumps({"schema": 1, "services": [service(), service6()]}))
    done = kernel_sync("--document", file, *how)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Table ipv6 nat: wrote" in done.stdout
    assert "-A LB-S-web6" in save(kind[0], family=Family.IPV6)
    file.write_text(json.dumps({"schema": 1, "services": [service()]}))
    assert "Table ipv6 nat: " in kernel_sync("--document", file, *how).stdout
    assert "LB-S-web6" not in save(kind[0], family=Family.IPV6)
    assert kernel_sync("--remove", *how).returncode == 0
    assert "LB-" not in save(kind[0]) + save(kind[0], family=Family.IPV6)


def test_without_options_it_follows_the_machine(namespace: Namespace, file: Path) -> None:
    done = kernel_sync("--document", file)
    assert done.returncode == 0, done.stderr
    assert ("LB-S-web" in save(Flavour.NFT)) != ("LB-S-web" in save(Flavour.LEGACY))


def test_problems_are_listed_with_their_paths_and_nothing_changes(namespace: Namespace, file: Path) -> None:
    file.write_text(json.dumps({"schema": 1, "services": [service(port=0), service("b", interface="$(x)")]}))
    done = kernel_sync("--document", file)
    assert done.returncode == 1
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert any(line.startswith("services[0].port: ") for line in lines)
    assert any(line.startswith("services[1].interface: ") for line in lines)
    assert "Traceback" not in done.stderr
    assert save(Flavour.NFT) + save(Flavour.LEGACY) == ""


def test_a_file_that_is_not_there_is_one_clear_sentence(namespace: Namespace, tmp_path: Path) -> None:
    done = kernel_sync("--document", tmp_path / "nothing.json")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No such file" in done.stderr


def test_a_driver_that_cannot_be_had_is_one_clear_sentence(namespace: Namespace, file: Path) -> None:
    done = kernel_sync("--document", file, "--flavour", "nft", "--driver", "python-iptables")
    assert done.returncode == 1
    assert "legacy tables only" in done.stderr
    assert "Traceback" not in done.stderr
    assert save(Flavour.NFT) == ""
