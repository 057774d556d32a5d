"""The probe expects of every way of balancing what a client may expect of it."""

from ipaddress import IPv4Address
from typing import Any

import pytest

from balancer.domain.types import Document
from balancer.kernel.base import Flavour
from balancer.ruleset.compile import compile_document
from balancer.ruleset.parts import backend_of
from balancer.ruleset.service import client_sets
from balancer.ruleset.sets import sets_of
from tests.kernel.machine import BACKENDS, document, run, service
from tests.probes.balancer import Balancer, ask

pytestmark = pytest.mark.kernel
TIERS = [{"address": address, "port": 80, "priority": n // 2} for n, address in enumerate(BACKENDS)]
AT_80 = {"backends": [{"address": address, "port": 80} for address in BACKENDS]}
STICKY = {"mode": "source"}
SOURCE = IPv4Address("198.19.255.254")
"""The probe's, unless somebody has it."""


def remembered(*, found: Document) -> str:
    """All entries of the sets of clients."""
    return "".join(
        line
        for one in sets_of(compile_document(found))
        for line in run("ipset", "save", one.name).splitlines()
        if line.startswith("add ")
    )


def add_interface(balancer: Balancer, name: str, address: str) -> None:
    run("ip", "link", "add", name, "type", "veth", "peer", "name", f"far{name}")
    run("ip", "link", "set", name, "up")
    run("ip", "link", "set", f"far{name}", "up")
    run("ip", "address", "add", address, "dev", name)
    balancer.filter_reverse_paths(name, 0)


def test_every_way_of_balancing_answers_and_no_set_of_clients_keeps_the_probe(
    balancer: Balancer, flavour: Flavour
) -> None:
    balancer.listen()
    found = balancer.carry(
        service("hash", scheduler="source-hash"),
        service("tiers", port=81, scheduler="failover", backends=TIERS),
        service("least", port=82, **AT_80, scheduler="least-connections"),
        service("sticky", port=83, **AT_80, persistence=STICKY),
        service("group", port=84, **AT_80, persistence={**STICKY, "prefix": 24}, scheduler="source-hash"),
        service("range", port=85, **AT_80, port_end=89, additional_ports=["443"]),
        flavour=flavour,
    )
    # As a probe that was killed leaves it: the client of a backend whose turn it is not.
    sticky = next(one for one in found.services if one.name == "sticky")
    run("ipset", "add", client_sets(sticky)[3], str(SOURCE))
    results = ask(found)
    assert {name: result.passed for name, result in results.items()} == dict.fromkeys(results, True), results
    assert f"(by {BACKENDS[0]}:80;" in results["sticky"].text
    assert "2 of 2 backends are up" in results["tiers"].text
    assert remembered(found=found) == ""


def test_clients_that_may_be_somebodys_are_not_forgotten_for_the_probe(balancer: Balancer) -> None:
    """Kept together with all of 198.0.0.0/8, it cannot be taken out without them."""
    balancer.listen()
    wide = service(persistence={**STICKY, "prefix": 8})
    found = balancer.carry(wide, flavour=Flavour.NFT)
    run("ipset", "add", client_sets(found.services[0])[3], "198.51.100.2")
    web = ask(found)["web"]
    assert web.passed is True
    assert f"(by {BACKENDS[3]}:80;" in web.text
    assert "198.0.0.0" in remembered(found=found)


def test_persistence_cannot_be_judged_where_the_probes_backend_is_down(balancer: Balancer) -> None:
    balancer.listen(addresses=BACKENDS[1:])
    found = balancer.carry(service(persistence=STICKY), flavour=Flavour.NFT)
    web = ask(found)["web"]
    assert web.passed is None
    assert "That may be chance: 3 of 4 backends are up." in web.text
    assert ask(balancer.carry(service(protocol="sctp"), flavour=Flavour.NFT))["web"].text == (
        "web was not asked: the probe cannot speak SCTP."
    )


def test_each_interface_is_asked_and_one_that_is_forgotten_is_named(
    balancer: Balancer, flavour: Flavour
) -> None:
    balancer.listen()
    add_interface(balancer, "eth2", "203.0.113.1/24")
    both = service(additional_interfaces=["eth2"])
    found = balancer.carry(both, flavour=flavour)
    web = ask(found)["web"]
    assert web.passed is True, web.text
    assert "through eth0 198.51.100.1:80" in web.text
    assert "through eth2 203.0.113.1:80" in web.text
    balancer.carry(both, flavour=flavour, rules=compile_document(document(service())))
    web = ask(found)["web"]
    assert web.passed is False
    assert web.text.startswith("web did not answer through eth2 203.0.113.1:80: ")


def test_a_backend_that_only_stands_in_for_others_must_not_answer(balancer: Balancer) -> None:
    balancer.listen()
    right = service(scheduler="failover", backends=TIERS)
    turned = service(
        scheduler="failover", backends=[one | {"priority": 1 - one["priority"]} for one in TIERS]
    )
    found = balancer.carry(right, flavour=Flavour.NFT, rules=compile_document(document(turned)))
    web = ask(found)["web"]
    assert web.passed is False
    said = ":80, which is to wait until those of a lower priority number are gone."
    assert any(f"answered by {standby}{said}" in web.text for standby in BACKENDS[2:])


def test_a_failover_service_whose_first_backends_are_down_is_not_asked_to_answer(balancer: Balancer) -> None:
    balancer.listen(addresses=BACKENDS[2:])
    found = balancer.carry(service(scheduler="failover", backends=TIERS), flavour=Flavour.NFT)
    web = ask(found)["web"]
    assert web.passed is None
    assert "none of its 2 enabled backends of the first priority accepts" in web.text


def hashed(**fields: Any) -> dict[str, Any]:
    return service(scheduler="source-hash", **fields)


def test_by_source_hash_nobody_but_the_backend_of_the_probes_own_address_may_answer(
    balancer: Balancer,
) -> None:
    balancer.listen()
    found = document(hashed())
    owner = backend_of(SOURCE, found.services[0].backends)
    others = [{"address": address, "port": 80} for address in BACKENDS if address != str(owner.address)]
    balancer.carry(hashed(), flavour=Flavour.NFT, rules=compile_document(document(hashed(backends=others))))
    web = ask(found)["web"]
    assert web.passed is False
    assert f"though the clients that {SOURCE} belongs to are those of {owner.endpoint}" in web.text
