"""IPv6 services are asked through the node as IPv4 ones are."""

import socket
from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import Any

import pytest

from balancer.domain.types import Document, Family
from balancer.kernel.base import Flavour
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from tests.kernel.ipv6 import BACKENDS6, BALANCER, INSIDE, Wires6, service6
from tests.kernel.machine import Namespace, document, run, service
from tests.probes.balancer import Balancer, ask, seen_around

pytestmark = pytest.mark.kernel


@pytest.fixture
def wires(namespace: Namespace) -> Iterator[Wires6]:
    built = Wires6(namespace)
    yield built
    built.close()


@pytest.fixture
def balancer(wires: Wires6) -> Balancer:
    made = Balancer(wires)
    with wires.backend.entered():
        run("ip", "-6", "route", "add", "default", "via", INSIDE)
    return made


def carry(
    *services: dict[str, Any], flavour: Flavour, families: tuple[Family, ...] = tuple(Family)
) -> Document:
    found = document(*services)
    for family in families:
        NodeKernel(flavour=flavour).sync(ruleset=compile_document(found, family=family), document=found)
    return found


def seen_of_ipv6() -> str:
    commands = (
        ("ip", "-6", "address"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("ip6tables-legacy-save",),
        ("ip6tables-nft-save",),
    )
    text = "".join(run(*command, check=False) for command in commands)
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith(("#", ":")))


@pytest.mark.parametrize("mode", ["masquerade", "none"])
def test_services_of_both_families_answer_and_nothing_is_left(
    balancer: Balancer, wires: Wires6, flavour: Flavour, mode: str
) -> None:
    balancer.listen()
    wires.listen6(port=81)
    nat = {"source_nat": {"mode": mode}}
    found = carry(service(**nat), service6(**nat), flavour=flavour)
    before = seen_around() + seen_of_ipv6()

    result = ask(found)

    assert result["web"].passed is True, result["web"].text
    assert result["web6"].passed is True, result["web6"].text
    assert result["web6"].text.startswith(f"web6 answered through eth0 [{BALANCER}]:81 after ")
    assert f"by [{BACKENDS6[0]}]:81; 4 of 4 backends are up" in result["web6"].text
    assert seen_around() + seen_of_ipv6() == before


def test_missing_ipv6_rules_are_told(balancer: Balancer, wires: Wires6, flavour: Flavour) -> None:
    wires.listen6(port=81)
    found = carry(service6(), flavour=flavour, families=(Family.IPV4,))
    web = ask(found)["web6"]
    assert web.passed is False
    assert "did not answer" in web.text or "refused" in web.text


def test_a_program_of_the_node_that_answers_instead_is_told(
    balancer: Balancer, wires: Wires6, flavour: Flavour
) -> None:
    wires.listen6(port=81)
    wires.keep(socket.create_server((BALANCER, 81), family=socket.AF_INET6))
    carry(service6("other6", port=82), flavour=flavour)
    found = document(service6())
    web = ask(found)["web6"]
    assert web.passed is False
    assert "was answered by the node itself" in web.text


def test_a_probe_network_that_is_in_use_names_its_setting(balancer: Balancer, wires: Wires6) -> None:
    wires.listen6(port=81)
    found = carry(service6(), flavour=Flavour.NFT)
    web = ask(found, network_ipv6=IPv6Network("2001:db8:1::/124"))["web6"]
    assert web.passed is True, web.text
    run("ip", "-6", "route", "add", "2001:2:0:f::/64", "dev", "eth0")
    web = ask(found, network_ipv6=IPv6Network("2001:2:0:f::/64"))["web6"]
    assert web.passed is None
    assert "LBADMIN_PROBE_NETWORK_IPV6" in web.text
