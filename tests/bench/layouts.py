"""The rulesets whose cost for a new flow is compared: each has one service to which the flow goes."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

from balancer.domain.codec import parse_document
from balancer.domain.types import Document, PortRange
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, Ruleset, TableName
from balancer.ruleset.targets import Goto

FIRST_PORT = 10_000
DENIED = 10_000
_RANGE = 5
_FIRST_ADDRESS = int(ip_address("203.0.0.1"))
_MANY = 1000


@dataclass(frozen=True, slots=True)
class Layout:
    title: str
    ruleset: Ruleset
    packets: int
    port: int
    address: IPv4Address | None = None
    """None: the balancer's own."""


def make_layouts(services: int) -> tuple[Layout, ...]:
    """One service alone comes first: the others are compared with it."""
    last = FIRST_PORT + services - 1
    tree = compile_document(by_port(services))

    def alone(title: str, **fields: Any) -> Layout:
        return Layout(title, compile_document(document([service(0, port=last, **fields)])), 30_000, last)

    return (
        alone("one service alone"),
        Layout(f"last of {services} ports", tree, 30_000, last),
        Layout(
            f"last of {services} ranges of {_RANGE} ports",
            compile_document(by_range(services)),
            30_000,
            FIRST_PORT + _RANGE * services - 1,
        ),
        Layout(
            f"last of {services} addresses",
            compile_document(by_address(services)),
            30_000,
            FIRST_PORT,
            IPv4Address(_FIRST_ADDRESS + services - 1),
        ),
        Layout(f"list of rules, last of {services}", as_list(tree, services), 1_500, last),
        alone("alone, random", scheduler="random"),
        alone("alone, failover", scheduler="failover"),
        alone("alone, source-hash", scheduler="source-hash"),
        alone("alone, persistence, known", persistence={"mode": "source"}),
        alone(f"alone, {_MANY} backends", backends=backends(_MANY)),
        alone(f"alone, {_MANY} backends, source-hash", backends=backends(_MANY), scheduler="source-hash"),
        alone(
            f"alone, {_MANY} backends, persistence, known",
            backends=backends(_MANY),
            persistence={"mode": "source"},
        ),
    )


def make_access_layouts() -> tuple[Layout, ...]:
    """What is asked of a client before it gets a backend; one service alone comes first."""
    bad = networks(DENIED)

    def alone(title: str, **access: Any) -> Layout:
        fields = {"access": access} if access else {}
        one = compile_document(document([service(0, port=FIRST_PORT, **fields)]))
        return Layout(title, one, 30_000, FIRST_PORT)

    return (
        alone("one service alone"),
        alone("deny list of 1 network", deny=["203.0.113.0/24"]),
        alone(f"deny list of {DENIED}, all /24", deny=[str(n) for n in networks(DENIED, mixed=False)]),
        alone(f"deny list of {DENIED}, sizes mixed", deny=[str(n) for n in bad]),
        alone(
            f"allow list of {DENIED}, deny as well",
            allow=["198.51.100.0/24", *map(str, bad)],
            deny=["10.9.9.9"],
        ),
        alone("rate by source", new_per_second_per_source=10_000, new_burst=100_000),
    )


def networks(count: int, *, mixed: bool = True) -> list[IPv4Network]:
    """Disjoint ones, none of which holds the client. Mixed as lists of bad networks are: most of them /24 and
    single addresses, and some of each size from /8 on."""
    sizes = [24] * 40 + [32] * 25 + [22] * 8 + [20] * 7 + [16] * 5 + [*range(12, 32)] if mixed else [24]
    found: list[IPv4Network] = []
    place = int(ip_address("1.0.0.0"))
    for number in range(count):
        bits = sizes[number * 7919 % len(sizes)]
        size = 1 << 32 - bits
        place = -(-place // size) * size
        found.append(IPv4Network((place, bits)))
        # A hole behind each, so that neighbours do not join.
        place += 2 * size
    return found


def by_port(services: int) -> Document:
    return document([service(i) for i in range(services)])


def by_range(services: int) -> Document:
    def ports(i: int) -> dict[str, int]:
        first = FIRST_PORT + _RANGE * i
        return {"port": first, "port_end": first + _RANGE - 1}

    return document([service(i, **ports(i)) for i in range(services)])


def by_address(services: int) -> Document:
    return document(
        [service(i, port=FIRST_PORT, address=str(ip_address(_FIRST_ADDRESS + i))) for i in range(services)]
    )


def backends(count: int) -> list[dict[str, Any]]:
    return [{"address": f"10.0.{1 + i // 250}.{i % 250 + 1}", "port": 53} for i in range(count)]


def service(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "name": f"s{number}",
        "interface": "eth0",
        "protocol": "udp",
        "port": FIRST_PORT + number,
        "backends": backends(2),
        **fields,
    }


def document(services: list[dict[str, Any]]) -> Document:
    found, problems = parse_document({"services": services})
    if found is None:
        raise ValueError(problems)
    return found


def as_list(tree: Ruleset, services: int) -> Ruleset:
    """The same services behind a list of rules, one for each, as such rulesets are usually written."""
    rules = tuple(
        Rule(
            in_interface="eth0",
            protocol=one.protocol,
            destination_ports=PortRange(one.port, one.port),
            destination_local=True,
            target=Goto(names.service_chain(one.name)),
        )
        for one in sorted(by_port(services).services, key=lambda one: one.port)
    )
    nat = tree.table(TableName.NAT)
    chains = {name: found for name, found in nat.chains.items() if not name.startswith("LB-D-")}
    listed = replace(nat, chains={**chains, names.PREROUTING: rules})
    return replace(tree, tables=(tree.table(TableName.FILTER), listed))
