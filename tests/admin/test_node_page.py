"""The page of a node: what its worker saw when it last looked."""

from ipaddress import IPv4Address

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.observation import ConnectionCount, InputPath, InputRule, Listener, Observation
from balancer.domain.types import Family, Protocol
from balancer.kernel.fake import FakeKernel
from balancer.models import Node
from tests.admin.conftest import Login
from tests.cast import Site
from tests.documents import backend_data, service_data


@pytest.fixture
def node(site: Site) -> Node:
    return Node.objects.get(name="lb1")


def show(login: Login, user: User, node: Node, **fields: object) -> str:
    Node.objects.filter(pk=node.pk).update(observed_at=timezone.now(), **fields)
    return login(user).get(f"/balancer/node/{node.pk}/change/").content.decode()


def seen(backend: str, number: int) -> ConnectionCount:
    return ConnectionCount(
        protocol=Protocol.TCP,
        address=IPv4Address("198.51.100.1"),
        port=80,
        backend=backend,
        entries=number + 1,
        established=number,
    )


def facts(**fields: object) -> dict[str, object]:
    return {**FakeKernel().facts().to_data(), **fields}


def test_ipv6_forwarding_is_shown_where_it_is_on_or_asked_for(
    login: Login, viewer: User, node: Node, site: Site
) -> None:
    assert "IPv6 forwarding" not in show(login, viewer, node, facts=facts(forwarding_ipv6=False))
    assert "IPv6 forwarding" in show(login, viewer, node, facts=facts(forwarding_ipv6=True))
    site.deploy(service_data("web", backends=[backend_data("2001:db8::3")]))
    page = show(login, viewer, node, facts=facts(forwarding_ipv6=False))
    assert "connections over IPv6 cannot be passed on" in page


def test_it_shows_what_is_balanced_where_the_node_listens_and_what_input_drops(
    login: Login, viewer: User, node: Node
) -> None:
    rules = (
        InputRule(text='-A INPUT -m comment --comment "<b>" -j DROP', chain="INPUT", verdict="DROP"),
        InputRule(text="-A INPUT -p tcp -j ACCEPT", chain="INPUT", verdict="ACCEPT"),
    )
    observation = Observation(
        connections=(seen("10.0.0.3:80", 3), seen("10.0.0.4:80", 4)),
        listeners=(
            Listener(protocol=Protocol.TCP, address="*", port=22),
            Listener(protocol=Protocol.UDP, address="::", port=67, interface="eth1"),
        ),
        inputs=(
            InputPath(flavour="legacy", policy="DROP", rules=rules, left_out=12),
            InputPath(flavour="legacy", family=Family.IPV6),
            *(InputPath(flavour="native", chain="inet filter input", family=family) for family in Family),
            InputPath(flavour="native", not_read="Rules made by nft are not looked at."),
        ),
        duration_ms=34,
    )
    page = show(login, viewer, node, observation=observation.to_data())
    assert "7 connections" in page
    assert "tcp *:22" in page
    assert "udp [::]:67 on eth1" in page
    assert "DROP <span" in page
    assert "(iptables-legacy)" in page
    assert "(ip6tables-legacy)" in page
    assert page.count("(nft inet filter input)") == 1
    assert "Rules made by nft are not looked at." in page
    assert "(nft)" not in page, "what was not read has no policy"
    assert "by 1 rule, and 12 more were not kept" in page
    assert "-A INPUT -m comment --comment &quot;&lt;b&gt;&quot; -j DROP" in page
    assert "-j ACCEPT" not in page
    assert "took 34 ms" in page


def test_a_node_that_does_nothing_of_its_own_says_so(login: Login, viewer: User, node: Node) -> None:
    page = show(login, viewer, node, observation=Observation(inputs=(InputPath(flavour="nft"),)).to_data())
    assert "0 connections" in page
    assert "nowhere but on loopback" in page
    assert "nothing by rule" in page


def test_a_node_that_could_not_be_looked_at_says_why(login: Login, viewer: User, node: Node) -> None:
    page = show(login, viewer, node, observation={"error": "conntrack said: no netlink today"})
    assert "It could not be looked at: conntrack said: no netlink today" in page
    assert "Balanced now" not in page


def test_a_node_that_nobody_has_looked_at_is_not_taken_for_an_idle_one(
    login: Login, viewer: User, node: Node
) -> None:
    page = login(viewer).get(f"/balancer/node/{node.pk}/change/").content.decode()
    assert "Its worker has not looked yet" in page
    assert "Balanced now" not in page
