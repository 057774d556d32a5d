"""Names of our chains: readable where they fit, cut and hashed where they do not.

A service name cannot contain a colon, so a name that was hashed (`LB-S-a-rather-long:0123456789`) can never
be that of another service.
"""

import hashlib
from ipaddress import IPv4Network, IPv6Network

from balancer.ruleset.ir import CHAIN_NAME_MAX

PREROUTING = "LB-PREROUTING"
POSTROUTING = "LB-POSTROUTING"
INPUT = "LB-INPUT"
FORWARD = "LB-FORWARD"
INVALID = "LB-INVALID"

_SERVICE = "LB-S-"
_PART = "LB-T-"
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


def interfaces_chain(prefix: str) -> str:
    """Interfaces whose names begin with `prefix`."""
    return _fit(_INTERFACES, prefix)


def endpoint_chain(interface: str, protocol: str) -> str:
    """The ports of one interface and protocol."""
    return _fit(_DISPATCH, f"{interface}:{protocol}")


def ports_chain(interface: str, protocol: str, first: int, last: int) -> str:
    return _fit(_DISPATCH, f"{interface}:{protocol}:{first}-{last}")


def addresses_chain(
    interface: str, protocol: str, port: int, network: IPv4Network | IPv6Network | None
) -> str:
    """The addresses of one port; `network` narrows it to a part of them."""
    tail = f":{network.network_address}-{network.prefixlen}" if network else ""
    return _fit(_DISPATCH, f"{interface}:{protocol}:{port}{tail}")


def drill_chain(token: str) -> str:
    """What a rollback drill adds, and what the guard has to take out again."""
    return _fit(_DRILL, token)


def _fit(prefix: str, text: str) -> str:
    room = CHAIN_NAME_MAX - len(prefix)
    if len(text) <= room:
        return prefix + text
    digest = hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]
    return f"{prefix}{text[: room - _HASH_LENGTH - 1]}:{digest}"
