"""Kernel tests: each in a network namespace of its own, with an xtables lock of its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import pytest

from balancer.kernel import native
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from tests.kernel.faults import Spoil
from tests.kernel.machine import Namespace, Wires, run
from tests.kernel.many import Crowd

KINDS = (
    (Flavour.LEGACY, DriverName.PYTHON_IPTABLES),
    (Flavour.LEGACY, DriverName.IPTABLES_RESTORE),
    (Flavour.NFT, DriverName.IPTABLES_RESTORE),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and "namespace" in getattr(item, "fixturenames", ()):
            item.add_marker("kernel")


@pytest.fixture
def namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """The test stands in a new namespace. Nothing of it is left, even if the run is killed."""
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    monkeypatch.setenv("LBADMIN_LOCK_DIR", str(tmp_path / "lock"))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    monkeypatch.setattr(native, "SLOW_SECONDS", 60.0)  # a busy machine is slow, and a test looks at once
    fresh = Namespace()
    with fresh.entered():
        run("ip", "link", "set", "lo", "up")
        yield fresh
    fresh.close()


@pytest.fixture
def wires(namespace: Namespace) -> Iterator[Wires]:
    built = Wires(namespace)
    yield built
    built.close()


@pytest.fixture
def crowd(namespace: Namespace) -> Iterator[Crowd]:
    built = Crowd(namespace)
    yield built
    built.close()


@pytest.fixture
def spoil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spoil:
    """Has code run at the start of each python-iptables child."""

    def put_in(code: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            f"import sys\nif 'pyiptables_child' in ' '.join(sys.orig_argv):\n{indent(code, '    ')}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put_in


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(kind))
def kind(request: pytest.FixtureRequest) -> tuple[Flavour, DriverName]:
    """Both flavours, both drivers."""
    return request.param


@pytest.fixture(params=Flavour)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param


@pytest.fixture
def kernel(namespace: Namespace, kind: tuple[Flavour, DriverName]) -> NodeKernel:
    return NodeKernel(flavour=kind[0], driver=kind[1], wait_seconds=5)
