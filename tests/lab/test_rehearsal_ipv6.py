"""Rehearsals of documents with IPv6 services: the same proof as over IPv4."""

import pytest

from balancer.domain.types import Family
from balancer.factories import rehearsal_loader
from balancer.lab.rehearse import rehearse
from balancer.ruleset.compile import compile_document
from tests.documents import backend_data, document, service_data
from tests.lab.spoil import forgotten_masquerade, spoil_rules, wrong_share
from tests.lab.test_rehearsal import list_names

VIRTUAL = "2001:db8:53::1"
BACKENDS = [backend_data(f"2001:db8:2::{last}") for last in range(3, 7)]
PAIR = [backend_data("2001:db8:2::3"), backend_data("fd00:7::4", port=8080, weight=3)]
OPEN = {"source_nat": {"mode": "none"}}

BOTH = document(
    service_data("web"),
    service_data("web6", port=8000, backends=BACKENDS),
    service_data("dns6", protocol="udp", port=53, address=VIRTUAL, backends=PAIR, **OPEN),
    service_data("dns", protocol="udp", port=53, address="203.0.113.1", **OPEN),
    service_data("chance6", interface="eth1", port=81, scheduler="random", backends=PAIR, **OPEN),
    service_data("elsewhere6", interface="eth1", address=VIRTUAL, port=53, backends=PAIR),
    service_data("full6", port=83, address=VIRTUAL, backends=[]),
    service_data("silent6", protocol="udp", port=83, address=VIRTUAL, backends=[]),
)
pytestmark = pytest.mark.kernel


def test_services_of_both_families_are_measured_side_by_side(flavour: str) -> None:
    result = rehearse(document=BOTH, load=rehearsal_loader(flavour=flavour))

    assert result.passed, result.verdict + str([s.verdict for s in result.services if not s.passed])
    assert result.omitted == ()
    by_name = {one.name: one for one in result.services}
    assert set(by_name) == {service.name for service in BOTH.services}
    assert [end.measured for end in by_name["web6"].endpoints] == [100] * 4
    assert [end.measured for end in by_name["dns6"].endpoints] == [100, 300]
    assert all(one.sent >= 400 for name, one in by_name.items() if name != "silent6")
    assert by_name["full6"].refused == by_name["full6"].sent
    assert len(by_name["web6"].sources) == 1
    assert len(by_name["dns6"].sources) > 1
    assert list_names() == set()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (wrong_share, "got 133 of 400|are promised"),
        (forgotten_masquerade, "where the balancer's own address is promised"),
    ],
)
def test_wrong_ipv6_rules_fail_with_numbers(flavour: str, fault: object, words: str) -> None:
    one = document(service_data("web6", backends=BACKENDS))
    ipv4, ipv6 = (compile_document(one, family=family) for family in Family)
    spoilt = spoil_rules(ipv6, fault)
    result = rehearse(document=one, load=rehearsal_loader(flavour=flavour), rulesets=[ipv4, spoilt])
    assert not result.passed
    (web,) = result.services
    assert any(word in web.verdict for word in words.split("|")), web.verdict
