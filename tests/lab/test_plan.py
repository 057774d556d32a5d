"""The plan of a lab: pure, so it runs everywhere."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from balancer.lab.machines import ARTICLE_BALANCERS, Balancer, Topology, check_topology
from balancer.lab.plan import plan_lab

ARTICLE = Topology(prefix="p-")


def machine(name: str, address: str = "10.0.0.1", **fields: object) -> Balancer:
    return Balancer(name=name, lan_address=IPv4Address(address), **fields)  # type: ignore[arg-type]


def test_the_machines_of_the_article_have_its_addresses() -> None:
    assert ARTICLE.namespaces == ("p-client", "p-lb1", "p-lb2", "p-backends")
    assert ARTICLE.address("lb1", "eth1") == IPv4Address("10.0.0.1")
    assert ARTICLE.address("lb2", "eth1") == IPv4Address("10.0.0.2")
    assert ARTICLE.address("lb1", "eth0") == IPv4Address("198.18.0.1")
    assert ARTICLE.address("lb2", "eth0") == IPv4Address("198.18.0.2")


def test_every_link_is_made_inside_namespaces_of_the_lab() -> None:
    inside = set(ARTICLE.namespaces)
    for line in plan_lab(ARTICLE).links:
        words = line.split()
        placed = [words[i + 1] for i, word in enumerate(words) if word == "netns"]
        assert len(placed) == (2 if "peer" in words else 1)
        assert set(placed) <= inside


def test_each_interface_name_towards_the_clients_is_a_network_of_its_own() -> None:
    topology = Topology(
        prefix="p-",
        balancers=(machine("a", interfaces=("eth0", "wan1")), machine("b", "10.0.0.2", interfaces=("wan1",))),
    )
    assert topology.segment("eth0") == IPv4Network("198.18.0.0/24")
    assert topology.segment("wan1") == IPv4Network("198.18.1.0/24")
    assert topology.address("b", "wan1") == IPv4Address("198.18.1.2")


def test_only_balancers_that_want_it_forward_packets() -> None:
    topology = Topology(prefix="p-", balancers=(ARTICLE_BALANCERS[0], machine("x", forwarding=False)))
    forwarding = {
        name: dict(sysctls)["net/ipv4/ip_forward"] for name, sysctls in plan_lab(topology).sysctls.items()
    }
    assert forwarding == {"p-client": "0", "p-lb1": "1", "p-x": "0", "p-backends": "0"}


@pytest.mark.parametrize(
    ("topology", "complaint"),
    [
        (Topology(prefix="p-", balancers=()), "needs balancers"),
        (Topology(prefix="p-", balancers=(machine("a"), machine("a"))), "different names"),
        (Topology(prefix="p-", balancers=(machine("client"),)), "none called client"),
        (Topology(prefix="p-", gateway="lb9"), "“lb9” is none of"),
        (Topology(prefix="p-", balancers=(machine("a", interfaces=("eth1",)),)), "another towards"),
        (Topology(prefix="p-", balancers=(machine("a", "10.1.0.1"),)), "outside the network"),
        (
            Topology(prefix="p-", balancers=(machine("a", addresses=(("eth9", IPv4Address("192.0.2.1")),)),)),
            "interface that it does not have",
        ),
    ],
)
def test_a_topology_that_cannot_be_is_refused_in_words(topology: Topology, complaint: str) -> None:
    assert complaint in (check_topology(topology) or "")


def test_the_topology_of_the_article_is_fine() -> None:
    assert check_topology(ARTICLE) is None
