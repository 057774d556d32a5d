"""Rehearsals of every way of balancing: correct rules pass, a compiler that is wrong in one is refused."""

import os
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from balancer.domain.types import Document, Family
from balancer.factories import rehearsal_loader
from balancer.lab.namespaces import run_ip
from balancer.lab.rehearsal import Limits, Loaded, Rehearsal, ServiceResult
from balancer.lab.rehearse import PREFIX, compile_families, rehearse
from balancer.ruleset.ir import Rule, Ruleset
from tests.documents import any_documents, backend_data, document, service_data
from tests.lab import spoil
from tests.lab.test_rehearsal import list_names

pytestmark = pytest.mark.kernel
CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
FLAVOURS = ("legacy", "nft")
BACKENDS = {Family.IPV4: "10.0.0.{}", Family.IPV6: "2001:db8:2::{}"}
VIRTUAL = {Family.IPV4: "203.0.113.{}", Family.IPV6: "2001:db8:203::{}"}
POOL = {Family.IPV4: "192.0.2.{}", Family.IPV6: "2001:db8:9::{}"}
GROUP = {Family.IPV4: 24, Family.IPV6: 64}
OPEN = {"mode": "none"}
FULL = Limits()
LIMITS = FULL if CAMPAIGN else Limits(connections=40, connections_most=400)


def backends(family: Family, **fields: Any) -> list[dict[str, Any]]:
    return [backend_data(BACKENDS[family].format(last), **fields) for last in range(3, 7)]


def many_places(family: Family) -> dict[str, Any]:
    first, *more = (VIRTUAL[family].format(n) for n in range(1, 3))
    return {
        "address": first,
        "additional_addresses": more,
        "additional_interfaces": ["eth1"],
        "port_end": 89,
        "additional_ports": ["443", "8000-8001"],
        "backends": backends(family, port=1080),
    }


def list_ways(family: Family) -> list[dict[str, Any]]:
    tiers = [{**one, "priority": number // 2} for number, one in enumerate(backends(family))]
    first, last = POOL[family].format(4), POOL[family].format(9)
    return [
        {"scheduler": "source-hash"},
        {"scheduler": "failover", "backends": tiers},
        {"scheduler": "least-connections", "backends": backends(family)[:1], "protocol": "udp"},
        {"persistence": {"mode": "source"}, "source_nat": OPEN},
        {"persistence": {"mode": "source", "prefix": GROUP[family]}, "protocol": "udp"},
        {"source_nat": {"mode": "snat", "address": POOL[family].format(1)}, "from_node": True},
        {"source_nat": {"mode": "snat", "address": first, "address_end": last}},
        {"source_nat": {**OPEN, "hairpin": True}, "from_node": True},
        {"source_nat": {**OPEN, "hairpin": True}, "protocol": "udp", "address": None},
        {"from_node": True, "backends": []},
        {"from_node": True, "backends": [], "protocol": "udp"},
        {"protocol": "sctp"},
        {"access": {"syn_proxy": True}},
        {
            "access": {
                "allow": ["192.0.2.0/24" if family is Family.IPV4 else "2001:db8:77::/48"],
                "new_per_second_per_source": 1,
                "connections_per_source": 1,
            }
        },
    ]


def every_way(families: Sequence[Family]) -> Document:
    """Each way in one of the families, in turn."""
    turns = zip(cycle(families), *map(list_ways, Family), range(14), strict=False)
    services = [service_data("places", **many_places(families[0]))]
    for family, ipv4, ipv6, number in turns:
        usual = {"address": VIRTUAL[family].format(9), "backends": backends(family), "port": 100 + number}
        way = ipv4 if family is Family.IPV4 else ipv6
        services.append(service_data(f"s{number:02}", **{**usual, **way}))
    return document(*services)


def complaints(result: Rehearsal) -> str:
    return f"{result.verdict} {[(s.name, s.verdict) for s in result.services if not s.passed]}"


ALL = [(flavour, family) for flavour in FLAVOURS for family in Family]
MIXED = [("legacy", (Family.IPV4, Family.IPV6))]
PURE = [(flavour, (family,)) for flavour, family in ALL]


@pytest.mark.parametrize(("flavour", "families"), MIXED + PURE if CAMPAIGN else MIXED)
def test_every_way_of_balancing_passes_where_its_rules_are_right(
    flavour: str, families: Sequence[Family]
) -> None:
    result = rehearse(document=every_way(families), load=rehearsal_loader(flavour=flavour), limits=LIMITS)
    assert result.passed, complaints(result)
    assert list_names() == set()
    assert [(one.name, one.reason) for one in result.unmeasured] == [("s11", "the lab cannot speak SCTP")]
    by_name = {one.name: one for one in result.services}
    assert by_name["places"].target.endswith(":80 on eth0 and 23 more places")
    assert ", each client by the one that is its own; none lost" in by_name["s00"].verdict
    assert len(by_name["s01"].endpoints) == 2
    for name in ("s03", "s04"):
        assert f" {LIMITS.connections} clients came again, and each got the backend" in by_name[name].verdict
    pools = [POOL[family] for family in families]
    assert set(by_name["s05"].sources) <= {pool.format(1) for pool in pools}
    assert set(by_name["s06"].sources) <= {pool.format(n) for n in range(4, 10) for pool in pools}
    for name in ("s05", "s07", "s09", "s10"):
        assert "4 more from the node itself: as promised." in by_name[name].verdict
    for name in ("s07", "s08"):
        assert "which uses the service itself: as promised." in by_name[name].verdict
    if CAMPAIGN:
        assert [end.measured for end in by_name["s00"].endpoints] == [256] * 4


Spoil = Callable[[str, Rule], Rule | None]
THEIRS = "clients did not get the backend that is theirs: "
AGAIN = "clients that came again did not get the backend that they had: "
WRONG: dict[str, tuple[Spoil, str]] = {
    "hash": (spoil.wrong_quarter, THEIRS),
    "sticky": (spoil.forgotten_client, AGAIN),
    "group": (spoil.lonely_client, AGAIN),
    "moved": (spoil.wrong_shift, ":1083 for port 84, which is no backend that takes new connections"),
    "doors": (spoil.missing_interface, "answered by the balancer itself: no rule took them, at "),
    "node": (spoil.deaf_to_the_node, "Of the node itself: 4 of 4 connections were answered by the balancer"),
    "turn": (spoil.forgotten_hairpin, "which uses the service itself: 1 of 1 connections were lost"),
}
"""Service -> what is done to its rules, and what is said of it."""


def spoilt_services(family: Family) -> dict[str, dict[str, Any]]:
    address = VIRTUAL[family].format(1)
    special: dict[str, dict[str, Any]] = {
        "calm": {"source_nat": OPEN},
        "hash": {"scheduler": "source-hash"},
        "sticky": {"persistence": {"mode": "source"}},
        "group": {"persistence": {"mode": "source", "prefix": GROUP[family]}},
        "moved": {"port_end": 85, "port": 83, "backends": backends(family, port=1083)},
        "doors": {"additional_interfaces": ["eth1"]},
        "node": {"from_node": True},
        "turn": {"source_nat": {**OPEN, "hairpin": True}},
        "masked": {},
    }
    return {
        name: service_data(
            name, **{"address": address, "port": 100 + number, "backends": backends(family), **fields}
        )
        for number, (name, fields) in enumerate(special.items())
    }


def rehearse_spoilt(
    family: Family, flavour: str, *, names: Sequence[str], spoils: Sequence[Spoil], limits: Limits
) -> dict[str, ServiceResult]:
    services = spoilt_services(family)
    one = document(*(services[name] for name in names))
    rulesets = list(compile_families(one))
    for each in spoils:
        spoilt = spoil.spoil_rules(rulesets[-1], each)
        assert spoilt != rulesets[-1]
        rulesets[-1] = spoilt
    result = rehearse(document=one, load=rehearsal_loader(flavour=flavour), rulesets=rulesets, limits=limits)
    assert result.loaded.error is None
    return {service.name: service for service in result.services}


@pytest.mark.parametrize(("flavour", "family"), ALL if CAMPAIGN else [("nft", Family.IPV4)])
def test_a_compiler_that_is_wrong_in_many_ways_is_refused_for_each_of_them(
    flavour: str, family: Family
) -> None:
    spoils = [spoilt for spoilt, _ in WRONG.values()]
    names = ["calm", *WRONG]
    found = rehearse_spoilt(family, flavour, names=names, spoils=spoils, limits=LIMITS)
    assert [name for name, one in found.items() if one.passed] == ["calm"]
    for name, (_, said) in WRONG.items():
        assert said in found[name].verdict
    assert " on eth1" in found["doors"].verdict


ALONE = WRONG | {
    "hash": (spoil.wrong_part, f"1 of 1024 {THEIRS}"),
    "masked": (spoil.snat_instead, f"Backends saw {spoil.STRANGE} as the source of"),
}
IPV6_ALONE = ALONE | {"masked": (spoil.snat_instead_ipv6, f"Backends saw {spoil.STRANGE_IPV6} as the source")}
EACH_ALONE = [(flavour, family, name) for flavour, family in ALL for name in ALONE]


@pytest.mark.parametrize(
    ("flavour", "family", "name"), EACH_ALONE if CAMPAIGN else [("legacy", Family.IPV6, "masked")]
)
def test_a_compiler_that_is_wrong_in_one_way_is_refused_for_that_alone(
    flavour: str, family: Family, name: str
) -> None:
    spoilt, said = (ALONE if family is Family.IPV4 else IPV6_ALONE)[name]
    found = rehearse_spoilt(family, flavour, names=["calm", name], spoils=[spoilt], limits=LIMITS)
    assert {other: one.passed for other, one in found.items()} == {"calm": True, name: False}
    assert said in found[name].verdict


@pytest.mark.parametrize("family", list(Family) if CAMPAIGN else [Family.IPV6])
def test_backends_whose_answers_do_not_come_by_the_node_fail_with_the_reason(family: Family) -> None:
    right = rehearsal_loader(flavour="nft")
    elsewhere = {Family.IPV4: "198.18.1.99", Family.IPV6: "2001:2:0:1::99"}[family]

    def lead_astray(place: Path, locks: Path, rulesets: tuple[Ruleset, ...], one: Document) -> Loaded:
        loaded = right(place, locks, rulesets, one)
        family_option = "-6" if family is Family.IPV6 else "-4"
        where = ["-n", f"{PREFIX}backends", family_option, "route", "replace", "default"]
        run_ip(arguments=[*where, "via", elsewhere, "dev", "lan"])
        return loaded

    one = document(
        service_data("open", backends=backends(family), source_nat=OPEN),
        service_data("web", port=81, backends=backends(family)),
    )
    result = rehearse(document=one, load=lead_astray, limits=LIMITS)
    found = {service.name: service for service in result.services}
    assert found["web"].passed, found["web"].verdict
    assert found["open"].verdict.startswith("16 of 16 connections were lost (0 refused, 16 unanswered).")
    backend = BACKENDS[family].format(3)
    assert f"see the client's address, and {backend} has no way back to " in found["open"].verdict
    assert "through the node. Make the node the gateway of its backends" in found["open"].verdict


@given(one=any_documents())
@settings(
    max_examples=100 if CAMPAIGN else 1,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
def test_arbitrary_documents_never_fail(one: Document) -> None:
    result = rehearse(document=one, load=rehearsal_loader(flavour="nft"), limits=LIMITS)
    assert result.passed, complaints(result)
