"""Which clients a rehearsal sends from where that decides about the backend. Pure and deterministic."""

from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from itertools import chain, islice
from typing import Any

from balancer.domain.limits import BITS, HASH_SLOTS
from balancer.domain.types import Address, Family, Network
from balancer.ruleset.parts import part_of

Range = tuple[int, int]
"""First and last address of one family, as numbers."""
_SPACE: dict[Family, tuple[Network, ...]] = {
    Family.IPV4: (IPv4Network("0.0.0.0/0"),),
    Family.IPV6: (IPv6Network("2000::/3"),),
}
_NOBODY = tuple(ip_network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"))
_EXAMINED_MAX = 40_000
"""To find a client of each part: a part is still without one then with a chance of e^-39."""


@dataclass(frozen=True)
class Crowd:
    """Clients of one family that nobody's document or lab knows."""

    family: Family
    first: Address
    """Clients begin here, and go on upwards through the whole address space where they must."""
    taken: tuple[Range, ...]

    def apart(self, *, prefix: int) -> Iterator[Address]:
        """Clients no two of which begin with the same `prefix` bits; few bits, few clients."""
        size = 1 << BITS[self.family] - prefix
        for network in self._networks(size):
            found = self._inside(network, size)
            if found is not None:
                yield ip_address(found)

    def of_each_part(self, *, prefix: int) -> list[Address]:
        """A client of each of source-hash's parts, as far as there are clients that are `apart`."""
        found: dict[int, Address] = {}
        for address in islice(self.apart(prefix=prefix), _EXAMINED_MAX):
            found.setdefault(part_of(address), address)
            if len(found) == HASH_SLOTS:
                break
        return list(found.values())

    def neighbour(self, address: Address, *, prefix: int) -> Address:
        """Another client with the same first bits; the same where there is none."""
        return address if prefix == BITS[self.family] else ip_address(int(address) ^ 1)

    def _networks(self, size: int) -> Iterator[int]:
        """First numbers of the networks of `size` addresses, from ours on and once around."""
        begin = int(self.first) // size
        (space,) = _SPACE[self.family]
        low, high = (int(a) // size for a in (space.network_address, space.broadcast_address))
        begin = min(max(begin, low), high)
        return (number * size for number in chain(range(begin, high + 1), range(low, begin)))

    def _inside(self, network: int, size: int) -> int | None:
        """An even number and the odd one behind it are free; a network of one address has the one."""
        if size == 1:
            return None if self._is_taken(network, network) else network
        for place in (2, size // 2, size - 2):
            number = network + place & ~1
            if network <= number < network + size and not self._is_taken(number, number + 1):
                return number
        return None

    def _is_taken(self, low: int, high: int) -> bool:
        firsts, lasts = self._merged
        behind = bisect_right(firsts, high)
        return behind > 0 and lasts[behind - 1] >= low

    @cached_property
    def _merged(self) -> tuple[list[int], list[int]]:
        """First and last numbers of what is taken: disjoint, in ascending order."""
        nobody = _NOBODY if self.family is Family.IPV4 else ()
        ranges = [*self.taken, *((int(n.network_address), int(n.broadcast_address)) for n in nobody)]
        firsts: list[int] = []
        lasts: list[int] = []
        for first, last in sorted(ranges):
            if lasts and first <= lasts[-1]:
                lasts[-1] = max(lasts[-1], last)
            else:
                firsts.append(first)
                lasts.append(last)
        return firsts, lasts


def routes_to(clients: Collection[Address]) -> list[str]:
    """`ip -batch` lines that let a machine speak from these addresses of one family."""
    networks: Iterator[Any] = collapse_addresses(ip_network(client) for client in clients)
    return [f"route replace local {network} dev lo" for network in networks]
