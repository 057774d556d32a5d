"""What a service with a SYN proxy must obey, and several of them together."""

from collections.abc import Iterator, Mapping
from itertools import product

from balancer.domain.problem import Problem
from balancer.domain.types import Address, Family, PortRange, Protocol, Service

_Place = tuple[PortRange, str, Service, Address | None]


def check_syn_proxy(service: Service) -> Iterator[Problem]:
    if service.access.syn_proxy and service.protocol is not Protocol.TCP:
        message = (
            f"A SYN proxy is for TCP, whose connections begin with a SYN; this service is {service.protocol}."
            " Turn it off."
        )
        yield Problem("access.syn_proxy", "syn-proxy-tcp", message)
    access = service.access
    if access.syn_proxy and (access.connections_per_source, access.connections_per_backend) != (None, None):
        message = (
            "Connections are counted where they pass the node, which those of a SYN proxy begin elsewhere."
            " Turn the SYN proxy off, or take connections_per_source and connections_per_backend out."
        )
        yield Problem("access.syn_proxy", "syn-proxy-limits", message)


def check_syn_proxies(services: Mapping[str, Service]) -> Iterator[Problem]:
    """Two that only the interface tells apart; told once for each two."""
    told: set[frozenset[str]] = set()
    for family in Family:
        places = sorted(
            (
                (ports, path, s, address)
                for path, s in services.items()
                if s.access.syn_proxy and s.family is family
                for address, ports in product(s.addresses or (None,), s.port_ranges)
            ),
            key=lambda place: (place[0], place[1]),
        )
        for one, other in _at_one_port(places):
            both = frozenset({one[2].name, other[2].name})
            if len(both) == 2 and both not in told and _are_confused(one, other):
                told.add(both)
                yield _problem(one, other)


def _at_one_port(places: list[_Place]) -> Iterator[tuple[_Place, _Place]]:
    """Each place with the earlier ones that share a port and may share an address."""
    begun: dict[Address | None, list[_Place]] = {}
    for place in places:
        ports, _, _, address = place
        near = begun if address is None else (address, None)
        for where in near:
            begun[where] = [one for one in begun.get(where, []) if one[0].last >= ports.first]
            yield from ((place, one) for one in begun[where])
        begun.setdefault(address, []).append(place)


def _are_confused(one: _Place, other: _Place) -> bool:
    """Whether some interface leads to one of them where the addresses alone lead to the other."""
    mine, others = set(one[2].interfaces), set(other[2].interfaces)
    if one[3] == other[3]:
        return not mine & others  # with an interface in common they overlap, which is told elsewhere
    return not (mine <= others if one[3] is None else others <= mine)


def _problem(one: _Place, other: _Place) -> Problem:
    ports, path, service, _ = one
    message = (
        f"Port {ports.first} has a SYN proxy in both {other[2].name!r} and {service.name!r}, which only their"
        " interfaces tell apart. The proxy's own connections come in on no interface: turn it off for one of"
        " them, or give both an address of their own."
    )
    return Problem(f"{path}.access.syn_proxy" if path else "access.syn_proxy", "overlap-syn-proxy", message)
