"""Names of our chains: readable where they fit, cut and hashed where they do not.

A service name cannot contain a colon, so a name that was hashed (`LB-S-a-rather-long:0123456789`) can never
be that of another service.
"""

import hashlib

from balancer.domain.types import Address, Network, PortRange
from balancer.ruleset.ir import CHAIN_NAME_MAX, OWN_PREFIX

SET_NAME_MAX = 31
"""IPSET_MAXNAMELEN without the closing zero (include/uapi/linux/netfilter/ipset/ip_set.h)."""

PREROUTING = "LB-PREROUTING"
POSTROUTING = "LB-POSTROUTING"
OUTPUT = "LB-OUTPUT"
INPUT = "LB-INPUT"
FORWARD = "LB-FORWARD"
INVALID = "LB-INVALID"

_SERVICE = "LB-S-"
_PART = "LB-T-"
_KNOWN = "LB-K-"
_HAIRPIN = "LB-H-"
_POOLS = "LB-N-"
_DISPATCH = "LB-D-"
_INTERFACES = "LB-I-"
_DRILL = "LB-drill-"
_HASH_LENGTH = 10


def service_chain(service: str) -> str:
    """Where the connections of a service get their mark and their backend."""
    return _fit(_SERVICE, service)


def part_chain(service: str, path: tuple[int, ...]) -> str:
    """A node of the tree in which a service with many backends chooses one."""
    return _fit(_PART, service + ":" + ".".join(map(str, path)))


def backend_chain(service: str, address: Address, port: int) -> str:
    """Where the connections that a service sends to this backend are counted, and their clients remembered.

    Begins as the service's own: names that are near each other are written faster (kernel/order.py).
    """
    return _fit(_SERVICE, f"{service}:{address}-{port}")


def known_chain(service: str, group: int) -> str:
    """Where a service with many backends looks for the one that a known client has."""
    return _fit(_KNOWN, f"{service}:{group}")


def hairpin_chain(service: str, network: Network | None) -> str:
    """Where the service finds out whether a client is one of its own backends."""
    return _fit(_HAIRPIN, f"{service}{f':{network.network_address}-{network.prefixlen}' if network else ''}")


def pools_chain(block: int) -> str:
    """The source addresses and pools whose numbers begin alike."""
    return f"{_POOLS}{block}"


def client_set(service: str, prefix: int, address: Address, port: int) -> str:
    """The set of the clients that a backend has: an ipset, which keeps `prefix` bits of an address."""
    start = set_prefix(address.version, prefix)
    return _fit(start, f"{service}:{address}-{port}", most=SET_NAME_MAX)


def client_group_set(service: str, prefix: int, version: int, group: int) -> str:
    """The clients of several backends together."""
    return _fit(set_prefix(version, prefix), f"{service}:{group}", most=SET_NAME_MAX)


def set_prefix(version: int, prefix: int) -> str:
    """How the name of a set begins: it tells the family and the bits that are kept, `LB-4.24-`."""
    return f"{OWN_PREFIX}{version}.{prefix}-"


def interfaces_chain(prefix: str) -> str:
    """Interfaces whose names begin with `prefix`."""
    return _fit(_INTERFACES, prefix)


def endpoint_chain(interface: str, protocol: str) -> str:
    """The ports of one interface and protocol."""
    return _fit(_DISPATCH, f"{interface}:{protocol}")


def ports_chain(interface: str, protocol: str, first: int, last: int) -> str:
    return _fit(_DISPATCH, f"{interface}:{protocol}:{first}-{last}")


def addresses_chain(interface: str, protocol: str, ports: PortRange, network: Network | None) -> str:
    """The addresses of one port, or of a range that no service divides; `network` narrows it to a part."""
    tail = f":{network.network_address}-{network.prefixlen}" if network else ""
    which = f"{ports.first}" if ports.first == ports.last else f"{ports.first}to{ports.last}"
    return _fit(_DISPATCH, f"{interface}:{protocol}:{which}{tail}")


def drill_chain(token: str) -> str:
    """What a rollback drill adds, and what the guard has to take out again."""
    return _fit(_DRILL, token)


def _fit(prefix: str, text: str, *, most: int = CHAIN_NAME_MAX) -> str:
    room = most - len(prefix)
    if len(text) <= room:
        return prefix + text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{prefix}{text[: room - _HASH_LENGTH - 1]}:{digest}"
