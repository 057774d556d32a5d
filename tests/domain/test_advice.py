"""What a reviewer is told about the machines: one warning at a time, and when there is none."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import permutations

import pytest

from balancer.domain.advice import COMMITS_MANY, Advice, Machine, ServiceChange, advise
from balancer.domain.observation import InputPath, InputRule, Listener
from balancer.domain.problem import Severity
from balancer.domain.types import Protocol, Service
from tests.documents import backend_data, document, service_data

OWN = (("lo", ip_address("127.0.0.1")), ("eth0", ip_address("198.51.100.1")))
SSH = frozenset({22})


def web(name: str = "web", **fields: object) -> Service:
    return document(service_data(name, **fields)).services[0]


def told(
    after: Service | None, *machines: Machine, before: Service | None = None, ports: frozenset[int] = SSH
) -> tuple[Advice, ...]:
    found = after or before
    assert found is not None
    change = ServiceChange(name=found.name, before=before, after=after)
    return advise(changes=[change], machines=machines, management_ports=ports)


def codes(*arguments: Machine | Service | None, **options: object) -> list[str]:
    return [advice.code for advice in told(*arguments, **options)]


def rule(text: str = "-A INPUT -p tcp -j DROP", **fields: object) -> InputRule:
    return InputRule(**({"text": text, "chain": "INPUT", "verdict": "DROP"} | fields))


def lb1(**fields: object) -> Machine:
    return Machine(**({"name": "lb1", "addresses": OWN} | fields))


def guarded(*rules: InputRule, policy: str = "ACCEPT", name: str = "lb1") -> Machine:
    return lb1(name=name, inputs=(InputPath(flavour="nft", policy=policy, rules=rules),))


def idle(state: str = "draining") -> Service:
    return web(backends=[backend_data(state=state)])


def test_a_service_that_had_backends_and_has_none_left_is_named() -> None:
    (advice,) = told(idle(), before=web())
    assert (advice.code, advice.service, advice.node, advice.severity) == (
        "no-backend",
        "web",
        "",
        Severity.WARNING,
    )
    assert "on 4 backends; with this change it has none left" in advice.message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, idle()),
        (idle(), idle("disabled")),
        (web(enabled=False), idle()),
        (web(), web(backends=[backend_data(), backend_data("10.0.0.4", state="disabled")])),
        (web(), replace(idle(), enabled=False)),
        (web(), None),
    ],
    ids=["new", "had none", "was disabled", "one is left", "is disabled", "is deleted"],
)
def test_what_validation_says_or_nobody_wonders_about_is_not_said(
    before: Service | None, after: Service | None
) -> None:
    assert codes(after, before=before) == []


@pytest.mark.parametrize("address", [None, "198.51.100.1"])
def test_a_new_service_on_a_management_port_is_a_way_to_lock_oneself_out(address: str | None) -> None:
    (advice,) = told(web(port=22, address=address), lb1())
    assert (advice.code, advice.node) == ("management-port", "lb1")
    assert "Port 22 on eth0 is how people reach lb1 itself" in advice.message


@pytest.mark.parametrize(
    "fields",
    [{"port": 23}, {"protocol": "udp"}, {"address": "203.0.113.7"}, {"enabled": False}],
    ids=["another port", "another protocol", "an address of nobody here", "not enabled"],
)
def test_a_service_that_leaves_management_ports_alone_is_fine(fields: dict) -> None:
    assert codes(web(**({"port": 22} | fields)), lb1()) == []


def test_a_range_takes_every_management_port_in_it() -> None:
    service = replace(web(port=20), port_end=8000)
    (advice,) = told(service, lb1(), ports=frozenset({22, 443, 8443}))
    assert "Ports 22 and 443" in advice.message


def test_only_the_change_that_takes_a_management_port_is_told_of_it() -> None:
    here = web(port=22)
    assert codes(replace(here, description="new words"), lb1(), before=here) == []
    for before in (web(port=23), web(port=22, interface="eth1"), web(port=22, enabled=False)):
        assert codes(here, lb1(), before=before) == ["management-port"], before
    narrow = web(port=22, address="198.51.100.1")
    assert codes(here, lb1(), before=narrow) == ["management-port"]
    assert codes(narrow, lb1(), before=here) == []


def test_a_program_of_the_machine_that_listens_there_is_named_with_its_place() -> None:
    listeners = (
        Listener(protocol=Protocol.TCP, address="*", port=80),
        Listener(protocol=Protocol.TCP, address="198.51.100.1", port=80),
        Listener(protocol=Protocol.TCP, address="0.0.0.0", port=81),
    )
    (advice,) = told(web(), lb1(listeners=listeners))
    assert (advice.code, advice.node) == ("own-listener", "lb1")
    assert "listens on tcp at any address, port 80, 198.51.100.1, port 80." in advice.message
    assert "no longer reaches that program" in advice.message


def test_rules_that_stop_protecting_a_port_are_quoted_and_counted() -> None:
    banned = [ip_network(f"203.0.113.{last}/32") for last in range(5)]
    rules = [rule(f"-A INPUT -s {network} -j DROP", source=network) for network in banned]
    (advice,) = told(web(), guarded(*rules))
    assert (advice.code, advice.node) == ("input-bypassed", "lb1")
    assert "lb1 has 5 rules in INPUT" in advice.message
    assert "“-A INPUT -s 203.0.113.0/32 -j DROP”" in advice.message
    assert "203.0.113.3" not in advice.message
    assert "and 2 more." in advice.message
    assert "FORWARD" in advice.message


def test_rules_about_something_else_are_not_mentioned() -> None:
    assert codes(web(), guarded(rule(protocol=Protocol.UDP), rule(ports=((22, 22),)))) == []


def test_a_policy_that_does_not_close_the_port_is_told_once_for_all_nodes() -> None:
    (advice,) = told(web(), *(guarded(policy="DROP", name=name) for name in ("lb2", "lb1", "lb3")))
    assert (advice.code, advice.node) == ("input-policy", "")
    assert "DROP on lb1, lb2 and lb3" in advice.message


def test_a_port_that_is_open_to_everyone_needs_no_words() -> None:
    opened = rule("-A INPUT -p tcp --dport 80 -j ACCEPT", verdict="ACCEPT", ports=((80, 80),))
    assert codes(web(), guarded(opened, rule(), policy="DROP")) == []


def test_what_one_flavour_opens_the_other_may_still_close() -> None:
    opened = rule("-A INPUT -j ACCEPT", verdict="ACCEPT")
    inputs = (InputPath(flavour="nft", rules=(opened,)), InputPath(flavour="legacy", rules=(rule(),)))
    assert codes(web(), lb1(inputs=inputs)) == ["input-bypassed"]


@pytest.mark.parametrize(
    ("fields", "machine", "expected"),
    [
        ({}, {}, True),
        ({"scheduler": "failover"}, {}, True),
        (
            {"scheduler": "failover", "backends": [backend_data(), backend_data("10.0.0.4", priority=1)]},
            {},
            False,
        ),
        ({"scheduler": "random"}, {}, False),
        ({"scheduler": "source-hash"}, {}, False),
        ({"backends": [backend_data()]}, {}, False),
        ({}, {"flavour": "nft"}, False),
        ({}, {"flavour": ""}, False),
        ({}, {"recent_commits": COMMITS_MANY}, False),
    ],
)
def test_round_robin_is_said_to_lose_its_order_only_where_commits_keep_restarting_it(
    fields: dict, machine: dict, expected: bool
) -> None:
    busy = lb1(**({"flavour": "legacy", "recent_commits": COMMITS_MANY + 1} | machine))
    assert codes(web(**fields), busy) == (["nth-restarts"] if expected else [])


def test_the_advice_on_restarts_says_what_stays_right_and_what_does_not() -> None:
    (advice,) = told(web(), lb1(flavour="legacy", recent_commits=COMMITS_MANY + 1))
    assert "keep their shares on average" in advice.message
    assert "strictly in turn" in advice.message
    assert "more than their share" not in advice.message


NONE = {"source_nat": {"mode": "none"}}


def routed(*networks: tuple[str, str]) -> Machine:
    return lb1(networks=tuple((name, ip_network(network)) for name, network in networks))


def test_backends_that_see_clients_are_told_to_answer_through_each_node() -> None:
    advices = told(web(**NONE), lb1(), lb1(name="lb2"))
    assert [(a.code, a.node) for a in advices] == [("backends-see-clients", name) for name in ("lb1", "lb2")]
    assert "Backends of web see the client's own address, so their answers must go back through lb1" in (
        advices[0].message
    )
    assert "on no network" not in advices[0].message, "nothing is known of the networks"


def test_backends_behind_a_router_are_named() -> None:
    backends = [backend_data(f"10.9.0.{n}") for n in range(1, 6)]
    (advice,) = told(
        web(**NONE, backends=[backend_data("10.0.0.3"), *backends]), routed(("eth1", "10.0.0.0/24"))
    )
    assert "10.9.0.1, 10.9.0.2, 10.9.0.3 and 2 more are on no network of lb1" in advice.message
    assert "10.0.0.3" not in advice.message


@pytest.mark.parametrize("fields", [{}, {"interface": "eth9", "additional_interfaces": ["eth0"]}])
def test_clients_on_the_network_of_the_backends_are_told_that_they_get_no_answer(fields: dict) -> None:
    (advice,) = told(web(**NONE, **fields), routed(("eth0", "10.0.0.0/24"), ("eth1", "192.0.2.0/24")))
    assert "Clients in the network 10.0.0.0/24 on eth0" in advice.message
    assert "past lb1" in advice.message


def test_backends_on_a_network_of_their_own_need_only_the_plain_words() -> None:
    (advice,) = told(web(**NONE), routed(("eth0", "203.0.113.0/24"), ("eth1", "10.0.0.0/24")))
    assert advice.message.endswith("or route the clients' networks to it.")


@pytest.mark.parametrize(
    "nat", [{"mode": "masquerade"}, {"mode": "snat", "address": "198.51.100.1"}], ids=lambda nat: nat["mode"]
)
def test_backends_that_see_another_source_need_no_route_of_their_own(nat: dict) -> None:
    assert codes(web(source_nat=nat), routed(("eth0", "10.0.0.0/24"))) == []


def test_nothing_is_said_about_nodes_of_which_nothing_is_known() -> None:
    assert codes(web(), Machine(name="lb1")) == []


def test_the_same_facts_in_any_order_give_the_same_words_in_one_order() -> None:
    changes = [ServiceChange(name=n, before=None, after=web(n, port=22)) for n in ("b", "a")]
    some = rule(source=ip_network("203.0.113.0/24"))
    machines = [guarded(some, policy="DROP", name=name) for name in ("lb2", "lb1")]
    found = {
        advise(changes=these, machines=others, management_ports=SSH)
        for these in permutations(changes)
        for others in permutations(machines)
    }
    (only,) = found
    assert [(a.service, a.code, a.node) for a in only] == sorted((a.service, a.code, a.node) for a in only)
    assert len(only) == 2 * (2 + 2 + 1)
