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
BACKENDS = "LB-BACKENDS"
SYN = "LB-SYN"
PROXIED = "LB-PROXIED"

_SERVICE = "LB-S-"
_PART = "LB-T-"
_KNOWN = "LB-K-"
_HAIRPIN = "LB-H-"
_POOLS = "LB-N-"
_DISPATCH = "LB-D-"
_INTERFACES = "LB-I-"
_DRILL = "LB-drill-"
_HASH_LENGTH = 10
_ACCESS = "LB-A-"
_LIMITS = "LB-C-"
_PROXY = "LB-P-"
_BACKENDS = "LB-B-"
DENIED = "LB-DENIED"
UNKNOWN = "LB-UNKNOWN"
LIMITS = "LB-LIMITS"
LIMITED = "LB-LIMITED"
_LIST_DIGITS = 20
_LOG_PREFIX_MAX = 29
"""LOG keeps 30 with the closing zero (include/uapi/linux/netfilter/xt_LOG.h)."""
_LOG_HASH = 4


def service_chain(service: str) -> str:
    """Where the connections of a service get their mark and their backend."""
    return _fit(_SERVICE, service)


def proxy_chain(service: str) -> str:
    """Where a service with a SYN proxy refuses who is not to get to the proxy."""
    return _fit(_PROXY, service)


def limits_chain(service: str) -> str:
    """Where the connections of a service are counted, by source and by backend."""
    return _fit(_LIMITS, service)


def refusal_chain(service: str, reason: str) -> str:
    """Where those are counted, and maybe logged, whom a service refuses for this reason."""
    return _fit(_ACCESS, f"{service}:{reason}")


def log_prefix(service: str, reason: str) -> str:
    """`LB web denied: `, as the kernel's log has it; a long name is cut and gets four digits of a hash."""
    room = _LOG_PREFIX_MAX - len(f"LB  {reason}: ")
    if len(service) > room:
        digest = hashlib.sha256(service.encode()).hexdigest()[:_LOG_HASH]
        service = f"{service[: room - _LOG_HASH - 1]}:{digest}"
    return f"LB {service} {reason}: "


def network_set(version: int, text: str) -> str:
    """The ipset of a list of networks, named by what is in it: another list is another set."""
    return f"{OWN_PREFIX}{version}.net-{hashlib.sha256(text.encode()).hexdigest()[:_LIST_DIGITS]}"


def rate_name(text: str) -> str:
    """What hashlimit counts under: at most 15 characters (IFNAMSIZ, as /proc/net/ipt_hashlimit lists it)."""
    return f"{OWN_PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def behind_dnat(chain: str) -> str:
    """The chain of a tree that looks at original destinations, in a table that may hold another tree."""
    for kind, other in ((_DISPATCH, "LB-E-"), (_INTERFACES, "LB-J-")):
        if chain.startswith(kind):
            return other + chain.removeprefix(kind)
    return chain


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


def backends_chain(network: Network, ports: PortRange | None) -> str:
    """Backends whose addresses begin alike, or those of one address whose ports do."""
    if ports is None:
        return _fit(_BACKENDS, f"{network.network_address}-{network.prefixlen}")
    return _fit(_BACKENDS, f"{network.network_address}:{ports.first}to{ports.last}")


def drill_chain(token: str) -> str:
    """What a rollback drill adds, and what the guard has to take out again."""
    return _fit(_DRILL, token)


def _fit(prefix: str, text: str, *, most: int = CHAIN_NAME_MAX) -> str:
    room = most - len(prefix)
    if len(text) <= room:
        return prefix + text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{prefix}{text[: room - _HASH_LENGTH - 1]}:{digest}"
