"""What a document costs: rules in both tables, and nat rules that the unluckiest connection tries."""

from dataclasses import dataclass
from ipaddress import ip_address

from balancer.domain.types import Address, Document, Family, Service
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset, TableName
from balancer.ruleset.matching import Packet
from balancer.ruleset.targets import Goto
from balancer.ruleset.trace import trace_packet
from tests.documents import Data, backend_data, document, service_data
from tests.ruleset.walks import longest_walk

EXAMPLE = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}


OWN = ("LB-S-", "LB-T-", "LB-K-", "LB-H-")
"""How the names of the chains begin that belong to one service."""


@dataclass(frozen=True, slots=True)
class Price:
    rules: int
    walk: int


def backends_of(count: int, **fields: object) -> list[Data]:
    return [backend_data(f"10.{i // 62500}.{i // 250 % 250}.{i % 250 + 1}", **fields) for i in range(count)]


def service_of(scheduler: str, count: int, name: str = "s0", **fields: object) -> Data:
    """Of failover, every other backend waits for the rest to fail. UDP: its access rules are the fewest."""
    backends = backends_of(count, port=80)
    if scheduler == "failover":
        backends = [{**backend, "priority": i % 2} for i, backend in enumerate(backends)]
    return service_data(
        name, **{"protocol": "udp", "port": 1000, "backends": backends, "scheduler": scheduler, **fields}
    )


def price_of(one: Document, *, family: Family = Family.IPV4) -> Price:
    """Of the whole document; some ten of its services are walked to."""
    ruleset = compile_document(one, family=family)
    services = [service for service in one.services if service.family is family]
    services = services[:: len(services) // 10 or 1]
    nat = ruleset.table(TableName.NAT).chains
    walk = max(way_to(ruleset, s) + longest_walk(nat, names.service_chain(s.name)) for s in services)
    return Price(count_rules(ruleset), walk)


def price_of_service(data: Data) -> Price:
    """Of what belongs to the service alone, behind the rule that leads to it."""
    nat = compile_document(document(data)).table(TableName.NAT).chains
    name = names.service_chain(data["name"])
    return Price(sum(len(nat[chain]) for chain in nat if chain.startswith(OWN)), longest_walk(nat, name))


def price_of_dispatch(services: int) -> Price:
    """Of all that is not a service's own, for services with one port after the other."""
    one = document(*(service_of("round-robin", 0, f"s{i}", port=1000 + i) for i in range(services)))
    own, whole = price_of_service(service_of("round-robin", 0)), price_of(one)
    return Price(whole.rules - services * own.rules, whole.walk - own.walk)


def count_rules(ruleset: Ruleset) -> int:
    return sum(len(rules) for table in ruleset.tables for rules in table.chains.values())


def way_to(ruleset: Ruleset, service: Service) -> int:
    """nat rules that are tried before the service's own chain, at the worst of its places."""
    return max(
        _way(ruleset, service, interface, address, port)
        for interface in service.interfaces
        for address in service.addresses or (None,)
        for ports in service.port_ranges
        for port in {ports.first, ports.last}
    )


def _way(ruleset: Ruleset, service: Service, interface: str, address: Address | None, port: int) -> int:
    packet = Packet(
        interface=interface,
        protocol=service.protocol,
        source=None,
        destination=address or EXAMPLE[service.family],
        port=port,
    )
    steps = [step for step in trace_packet(ruleset, packet).steps if step.table is TableName.NAT]
    own = Goto(names.service_chain(service.name))
    return next(i for i, step in enumerate(steps, start=1) if step.rule.target == own and step.matched)
