"""Labs for the kernel tests, each with names of its own so that several runs can share a machine."""

import itertools
import os
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from balancer.lab.machines import ARTICLE_BALANCERS
from balancer.lab.topology import Lab

FLAVOURS = ("legacy", "nft")
TCP_PORTS = (80, 8080)
UDP_PORTS = (53, 8080)
_numbers = itertools.count(1)


def new_prefix() -> str:
    return f"lbt-{os.getpid()}-{next(_numbers)}-"


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One balancer with the whole network 10.0.0.0/24 behind it."""
    built = Lab(
        prefix=new_prefix(),
        balancers=ARTICLE_BALANCERS[:1],
        backends=(IPv4Network("10.0.0.0/24"),),
        tcp_ports=TCP_PORTS,
        udp_ports=UDP_PORTS,
        records=tmp_path_factory.mktemp("records"),
    )
    with built:
        # The balancer's own ports: whatever is not balanced ends here, and says so.
        built.listen(machine="lb1", tcp_ports=(80, 8080, 9090), udp_ports=(53, 8080, 9090))
        yield built


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)
