"""The rulesets whose cost for a new flow is compared: each has one service to which the flow goes."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import Any

from balancer.domain.codec import parse_document
from balancer.domain.types import Document
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Goto, PortRange, Rule, Ruleset, TableName

FIRST_PORT = 10_000
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
