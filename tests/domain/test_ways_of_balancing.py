"""Bad input for every key of the ways of balancing: told at its key, in a sentence, and nothing is taken."""

from typing import Any

import pytest

from balancer.domain.limits import MAX_POOLS
from tests.documents import backend_data, document, problems_of, service_data

HOSTILE = ["$(x)", "80\n-j ACCEPT", "x" * 400, "\N{GRINNING FACE}", "", None, 5, {}, [[]]]
SNAT = {"mode": "snat", "address": "198.51.100.1"}
SOURCE = {"mode": "source"}
FAILOVER = {"scheduler": "failover"}
RANDOM = {"scheduler": "random"}
SIX = {"address": "2001:db8::1", "backends": [backend_data("2001:db8::3")]}

UNEQUAL = [backend_data("10.0.0.3"), *(backend_data(f"10.0.0.{n}", weight=256) for n in range(4, 9))]
TOO_MANY = [backend_data(f"10.0.{i // 250}.{i % 250 + 1}") for i in range(1025)]
PLACE = {"address": "203.0.113.1"}

BAD = [
    ("port_end", {"port_end": 79}, "range"),
    ("port_end", {"port_end": 0}, "range"),
    ("port_end", {"port_end": 65536}, "range"),
    ("port_end", {"port_end": "90"}, "range"),
    *[("additional_ports", {"additional_ports": [text]}, "range") for text in HOSTILE],
    ("additional_ports", {"additional_ports": ["0"]}, "range"),
    ("additional_ports", {"additional_ports": ["65536"]}, "range"),
    ("additional_ports", {"additional_ports": ["8099-8000"]}, "range"),
    ("additional_ports", {"additional_ports": ["0-10"]}, "range"),
    ("additional_ports", {"additional_ports": ["8000-65536"]}, "range"),
    ("additional_ports", {"additional_ports": [443]}, "range"),
    ("additional_ports", {"additional_ports": "443"}, "not-a-list"),
    ("additional_ports", {"additional_ports": ["443", "443"]}, "duplicate"),
    ("additional_ports", {"additional_ports": ["80"]}, "overlap"),
    ("additional_ports", {"port_end": 90, "additional_ports": ["85-95"]}, "overlap"),
    ("additional_ports", {"additional_ports": ["8000-8099", "8050"]}, "overlap"),
    *[("additional_addresses", PLACE | {"additional_addresses": [text]}, "address")
      for text in HOSTILE],
    ("additional_addresses", PLACE | {"additional_addresses": ["0.0.0.0"]}, "address"),
    ("additional_addresses", PLACE | {"additional_addresses": ["127.0.0.1"]}, "address"),
    ("additional_addresses", PLACE | {"additional_addresses": ["224.0.0.1"]}, "address"),
    ("additional_addresses", PLACE | {"additional_addresses": ["203.0.113.1"]}, "duplicate"),
    ("additional_addresses", PLACE | {"additional_addresses": ["203.0.113.2"] * 2}, "duplicate"),
    ("additional_addresses[0]", PLACE | {"additional_addresses": ["2001:db8::1"]}, "family"),
    ("additional_addresses[0]", SIX | {"additional_addresses": ["203.0.113.1"]}, "family"),
    ("additional_addresses", {"additional_addresses": ["203.0.113.2"]}, "unused"),
    *[("additional_interfaces", {"additional_interfaces": [text]}, "interface") for text in HOSTILE],
    ("additional_interfaces", {"additional_interfaces": ["eth0"]}, "duplicate"),
    ("additional_interfaces", {"additional_interfaces": ["eth1", "eth1"]}, "duplicate"),
    ("from_node", {"from_node": "yes"}, "type"),
    ("from_node", {"from_node": 1}, "type"),
    ("slow_start", RANDOM | {"slow_start": -1}, "range"),
    ("slow_start", RANDOM | {"slow_start": 3601}, "range"),
    ("slow_start", RANDOM | {"slow_start": "30 s"}, "range"),
    ("slow_start", {"slow_start": 30}, "unused"),
    ("slow_start", {"scheduler": "failover", "slow_start": 30}, "unused"),
    ("persistence.timeout", {"persistence": SOURCE | {"timeout": 0}}, "range"),
    ("persistence.timeout", {"persistence": SOURCE | {"timeout": 604_801}}, "range"),
    ("persistence.timeout", {"persistence": {"timeout": 60}}, "unused"),
    ("persistence.prefix", {"persistence": SOURCE | {"prefix": 0}}, "range"),
    ("persistence.prefix", {"persistence": SOURCE | {"prefix": 33}}, "range"),
    ("persistence.prefix", {"persistence": SOURCE | {"prefix": "24"}}, "range"),
    ("persistence.prefix", SIX | {"persistence": SOURCE | {"prefix": 129}}, "range"),
    ("persistence.prefix", {"persistence": {"prefix": 24}}, "unused"),
    ("persistence.mode", {"persistence": {"mode": "cookie"}}, "choice"),
    *[("source_nat.address", {"source_nat": {"mode": "snat", "address": text}}, "address")
      for text in HOSTILE if text is not None],
    ("source_nat.address", {"source_nat": {"mode": "snat"}}, "missing"),
    ("source_nat.address", {"source_nat": {"mode": "snat", "address": "127.0.0.1"}}, "address"),
    ("source_nat.address", {"source_nat": {"mode": "snat", "address": "224.0.0.1"}}, "address"),
    ("source_nat.address", {"source_nat": {"mode": "snat", "address": "2001:db8::1"}}, "family"),
    ("source_nat.address", {"source_nat": {"mode": "none", "address": "198.51.100.1"}}, "unused"),
    ("source_nat.address_end", {"source_nat": SNAT | {"address_end": "198.51.100.0"}}, "range"),
    ("source_nat.address_end", {"source_nat": SNAT | {"address_end": "198.51.100.1"}}, "range"),
    ("source_nat.address_end", {"source_nat": SNAT | {"address_end": "2001:db8::2"}}, "family"),
    ("source_nat.address_end", {"source_nat": SNAT | {"address_end": "$(x)"}}, "address"),
    ("source_nat.address_end", {"source_nat": {"address_end": "198.51.100.9"}}, "unused"),
    ("source_nat.hairpin", {"source_nat": {"hairpin": True}}, "unused"),
    ("source_nat.hairpin", {"source_nat": SNAT | {"hairpin": True}}, "unused"),
    ("source_nat.hairpin", {"source_nat": {"mode": "none", "hairpin": "on"}}, "type"),
    ("protocol", {"protocol": "igmp"}, "choice"),
    ("scheduler", {"scheduler": "source-hash", "backends": UNEQUAL}, "hash-slots"),
    ("backends", {"backends": TOO_MANY}, "too-many"),
    ("backends[0].priority", {"backends": [backend_data(priority=3)]}, "unused"),
    ("backends[0].priority", FAILOVER | {"backends": [backend_data(priority=256)]}, "range"),
    ("backends[0].priority", FAILOVER | {"backends": [backend_data(priority=-1)]}, "range"),
    ("backends[0].priority", FAILOVER | {"backends": [backend_data(priority="first")]}, "range"),
    ("backends[0].port", {"port": 8000, "port_end": 8099, "backends": [backend_data(port=65500)]}, "range"),
    ("backends[0].port", {"additional_ports": ["10"], "backends": [backend_data(port=70)]}, "range"),
    ("backends[0].address", PLACE | {"additional_addresses": ["203.0.113.2"],
                             "backends": [backend_data("203.0.113.2")]}, "loop"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "code"), BAD)
def test_a_bad_value_is_told_at_its_key(path: str, fields: dict[str, Any], code: str) -> None:
    problems = problems_of(service_data(**fields))

    assert [(p.path, p.code) for p in problems] == [(f"services[0].{path}", code)]
    assert problems[0].message.endswith(".")
    assert problems[0].message.isprintable()
    assert len(problems[0].message) < 400


@pytest.mark.parametrize(
    "other",
    [
        {"port": 8050},
        {"port": 7000, "port_end": 8000},
        {"port": 1, "additional_ports": ["443", "8099-9000"]},
        {"port": 80, "interface": "eth1"},
        {"port": 443, "interface": "eth7", "additional_interfaces": ["eth1"]},
        {"port": 80, "address": "203.0.113.9", "additional_addresses": ["203.0.113.2"]},
    ],
    ids=[
        "in a range",
        "at the edge of a range",
        "in a list",
        "a further interface",
        "both further",
        "address",
    ],
)
def test_two_services_cannot_take_one_port_in_one_place(other: dict[str, Any]) -> None:
    first = service_data(
        "a",
        address="203.0.113.1",
        additional_addresses=["203.0.113.2"],
        additional_interfaces=["eth1"],
        additional_ports=["443", "8000-8099"],
    )
    fields = {"address": "203.0.113.1"} | other

    problems = problems_of(first, service_data("b", **fields))

    (problem,) = problems
    assert problem.code == "overlap"
    assert problem.path in {"services[0].port", "services[1].port"}
    assert "'a'" in problem.message
    assert "'b'" in problem.message


def test_ranges_that_only_touch_live_together() -> None:
    first = service_data("a", port=8000, port_end=8099)
    assert problems_of(first, service_data("b", port=8100, port_end=8199)) == ()


def test_what_the_node_itself_sends_belongs_to_one_service() -> None:
    """Interfaces keep them apart for what comes in, and for nothing else."""
    first = service_data("a", from_node=True, additional_ports=["443"])
    other = service_data("b", from_node=True, interface="eth1", port=443)

    (problem,) = problems_of(first, other)

    assert (problem.path, problem.code) == ("services[1].from_node", "overlap-from-node")
    assert problems_of(first, other | {"from_node": False}) == ()
    assert problems_of(first, other | {"protocol": "udp"}) == ()


def test_a_priority_that_waits_must_be_able_to_count_too() -> None:
    """Whoever takes over has no form left that could refuse it."""
    waiting = [backend_data(f"10.0.0.{n}", weight=256 - n, priority=1) for n in range(10, 16)]
    service = service_data(scheduler="failover", backends=[backend_data(), *waiting])

    (problem,) = problems_of(service)

    assert (problem.path, problem.code) == ("services[0].scheduler", "cycle")
    assert "of one priority" in problem.message


def test_more_pools_than_a_mark_can_tell_apart_are_refused() -> None:
    services = [
        service_data(
            f"s{n:03}", port=n + 1, source_nat=SNAT | {"address": f"198.51.{n // 250}.{n % 250 + 1}"}
        )
        for n in range(MAX_POOLS + 1)
    ]
    assert problems_of(*services[:MAX_POOLS]) == ()
    assert [p.path for p in problems_of(*services)] == [f"services[{MAX_POOLS}].source_nat.address"]


def test_a_list_in_any_order_is_one_document() -> None:
    lists = {
        "additional_ports": ["8000-8099", "443"],
        "additional_addresses": ["203.0.113.9", "203.0.113.2"],
        "additional_interfaces": ["eth2", "eth1"],
    }
    turned = {key: value[::-1] for key, value in lists.items()}
    first, other = (document(service_data(address="203.0.113.1", **these)) for these in (lists, turned))
    assert first == other
