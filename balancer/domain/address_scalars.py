"""Readers of single values (`scalars`) that are addresses or networks."""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from balancer.domain.limits import MAX_NETWORKS
from balancer.domain.scalars import Invalid, InvalidEntries, describe, each_once
from balancer.domain.types import Address, Network

_IPV4_COMPATIBLE = IPv6Network("::/96")
"""RFC 4291, 2.5.5.1, deprecated; tools print these addresses in the spelling of IPv4."""
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
"""RFC 4291, 2.5.5.2: never on a wire."""
_ENTRIES_TOLD = 10


def address(value: object) -> Address:
    if not isinstance(value, str) or "%" in value:
        raise Invalid("address", f"must be an IP address such as 10.0.0.3, not {describe(value)}.")
    try:
        return ip_address(value)
    except ValueError:
        raise Invalid("address", f"must be an IP address such as 10.0.0.3, not {describe(value)}.") from None


def service_address(value: object) -> Address:
    found = address(value)
    if found.is_unspecified:
        raise Invalid("address", f"must name one address; leave it empty (null) for any, instead of {found}.")
    return _unicast(found)


def own_address(value: object) -> Address:
    """One that other machines can send to: an address of the service besides its first, or a new source."""
    found = service_address(value)
    if found.is_loopback:
        raise Invalid("address", f"must be an address that others can reach; {found} never leaves a machine.")
    return found


def own_addresses(value: object) -> tuple[Address, ...]:
    found = each_once(value, own_address, "address")
    return tuple(sorted(found, key=lambda a: (a.version, int(a))))


def backend_address(value: object) -> Address:
    found = address(value)
    if found.is_unspecified or found.is_loopback:
        raise Invalid(
            "address", f"must be an address that the balancer can forward packets to; {found} is its own."
        )
    return _unicast(found)


def checked_address(value: object) -> Address:
    """One that the node can ask; the node itself is allowed, for a program there that knows."""
    found = address(value)
    if found.is_unspecified:
        raise Invalid(
            "address", f"must name one address; leave it empty for each backend's own, not {found}."
        )
    return _unicast(found)


def _unicast(found: Address) -> Address:
    if found.is_multicast or str(found) == "255.255.255.255":
        raise Invalid("address", f"must belong to one machine; {found} is a multicast or broadcast address.")
    if found.version == 6:
        _refuse_ipv6_of_no_network(found)
    return found


def _refuse_ipv6_of_no_network(found: IPv6Address) -> None:
    if found.is_link_local:
        raise Invalid(
            "address",
            f"must be an address that is routed; {found} is link-local and another one on each link.",
        )
    if found.ipv4_mapped is not None or (found in _IPV4_COMPATIBLE and not found.is_loopback):
        raise Invalid(
            "address", f"must not hold an IPv4 address in IPv6 spelling; write {found} as IPv4 address."
        )


def networks(value: object) -> tuple[Network, ...]:
    """In the order of the input: what is said of an entry later has to name it, too."""
    if not isinstance(value, list):
        raise Invalid("not-a-list", f"must be a list of networks, not {describe(value)}.")
    if len(value) > MAX_NETWORKS:
        raise Invalid("too-many", f"may hold {MAX_NETWORKS} networks, not {len(value)}. Join neighbours.")
    found: list[Network] = []
    wrong: list[tuple[int, str, str]] = []
    for index, item in enumerate(value):
        try:
            found.append(_network(item))
        except Invalid as error:
            wrong.append((index, error.code, error.message))
    if wrong:
        raise InvalidEntries(_few(wrong))
    return tuple(found)


def _few(wrong: list[tuple[int, str, str]]) -> list[tuple[int, str, str]]:
    """A file of another kind was pasted, maybe: the first ones tell as much as thousands do."""
    if len(wrong) <= _ENTRIES_TOLD:
        return wrong
    index, code, message = wrong[_ENTRIES_TOLD - 1]
    more = f"{message} So are {len(wrong) - _ENTRIES_TOLD} more entries behind this one."
    return [*wrong[: _ENTRIES_TOLD - 1], (index, code, more)]


def _network(value: object) -> Network:
    if not isinstance(value, str) or "%" in value:
        raise Invalid("network", f"A network such as 192.0.2.0/24 is wanted here, not {describe(value)}.")
    try:
        found = ip_network(value)
    except ValueError:
        raise Invalid("network", _why_no_network(value)) from None
    if found.version == 6 and _is_ipv4_inside(found):
        meant = IPv4Network((int(found.network_address) & 0xFFFFFFFF, found.prefixlen - 96))
        message = (
            f"{describe(value)} is IPv4 in IPv6 spelling, and no client comes from there; write {meant}."
        )
        raise Invalid("network", message)
    return found


def _is_ipv4_inside(found: IPv6Network) -> bool:
    if found.subnet_of(_IPV4_MAPPED):
        return True
    # ::1 is no IPv4 address, and ::/96 more likely a beginning of everything than all of IPv4.
    inside = found.subnet_of(_IPV4_COMPATIBLE) and found.prefixlen > 96
    return inside and int(found.network_address) > 0xFFFF


def _why_no_network(value: str) -> str:
    text, mark, _ = value.partition("#") if "#" in value else value.partition(";")
    if mark:
        rest = _network_in(text.strip())
        advice = f"write {rest} alone" if rest else "leave it out"
        return f"{describe(value)} has a comment, and lists keep none; {advice}."
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        return f"A network such as 192.0.2.0/24 is wanted here, not {describe(value)}."
    return f"{describe(value)} is an address inside of a network; write {meant} for all of it."


def _network_in(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None
