"""Which services an entry of connection tracking can be of: it tells protocol, port and address. Pure.

The interface by which the client came in is not in an entry, so there can be several.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

from balancer.domain.types import PortRange, Protocol, Service

_SHORT = 64
"""Ports of a range that are indexed one by one."""
_FROM_NODE = ""
"""In place of an interface: what programs on the node send."""


class PortIndex:
    """Services by protocol and port; long ranges of ports are asked one by one."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._ports: dict[tuple[Protocol, int], list[Service]] = defaultdict(list)
        self._ranges: list[tuple[Protocol, PortRange, Service]] = []
        for service in services:
            for ports in service.port_ranges:
                if ports.last - ports.first < _SHORT:
                    for port in range(ports.first, ports.last + 1):
                        self._ports[service.protocol, port].append(service)
                else:
                    self._ranges.append((service.protocol, ports, service))

    def at(self, protocol: Protocol, port: int) -> list[Service]:
        wide = [s for of, ports, s in self._ranges if of is protocol and port in ports]
        return [*self._ports.get((protocol, port), ()), *wide]


def nearest(covering: Collection[Service], *, interface: str | None = None) -> list[Service]:
    """Of the services that cover an address and port those to which dispatch leads, by any way or by one.

    Wherever one names the address, those that take any address are not asked (balancer/ruleset/dispatch.py).
    """
    reached = [(s, _ways(s) if interface is None else _ways(s) & {interface}) for s in covering]
    named = {way for s, ways in reached if s.addresses for way in ways}
    return [s for s, ways in reached if (ways if s.addresses else ways - named)]


def _ways(service: Service) -> frozenset[str]:
    return frozenset(service.interfaces) | (frozenset({_FROM_NODE}) if service.from_node else frozenset())
