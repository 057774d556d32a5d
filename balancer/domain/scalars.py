"""Readers of single values: each takes a JSON value and returns a domain value, or raises `Invalid` with a
sentence that goes on after the name of the field ("Port must be …")."""

import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, TypeVar

from balancer.domain.limits import MAX_NETWORKS
from balancer.domain.payload import MAX_PAYLOAD, is_payload
from balancer.domain.types import Address, Network, PortRange

Scalar = Callable[[object], Any]
_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")

_IPV4_COMPATIBLE = IPv6Network("::/96")
"""RFC 4291, 2.5.5.1, deprecated; tools print these addresses in the spelling of IPv4."""
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
"""RFC 4291, 2.5.5.2: never on a wire."""
_SERVICE_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
# The kernel allows more (dev_valid_name in net/core/dev.c); a trailing '+' is a wildcard to iptables and the
# rest is not worth the quoting.
_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}")
_PORTS = re.compile(r"([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?")
_ENTRIES_TOLD = 10
_URL_PATH = re.compile(r"/[!-~]{0,1023}")
_STATUS_RANGES = re.compile(r"[1-5]\d\d(-[1-5]\d\d)?(,[1-5]\d\d(-[1-5]\d\d)?)*")
# RFC 9110, 7.2: a host as in a URI, and perhaps a port. Nothing here can end a header's line.
_HOST = re.compile(
    r"(?:([A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*)|\[([0-9A-Fa-f:.]+)\])(?::([1-9]\d{0,4}))?"
)
_MAX_BODY_TEXT = 200
_MAX_STATUS_RANGES = 200


class Invalid(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class InvalidEntries(Invalid):
    """What is wrong with single entries of a list; these messages are whole sentences."""

    def __init__(self, entries: list[tuple[int, str, str]]) -> None:
        """(index, code, message)."""
        super().__init__(entries[0][1], entries[0][2])
        self.entries = entries


def label(key: str) -> str:
    """`port_end` -> `Port end`."""
    return key.replace("_", " ").capitalize()


def describe(value: object) -> str:
    """A short, printable form of what somebody gave us."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def whole_number(low: int, high: int) -> Scalar:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Invalid("range", f"must be a whole number from {low} to {high}, not {describe(value)}.")
        return value

    return read


port = whole_number(1, 65535)


def ports(value: object) -> tuple[PortRange, ...]:
    """A list of "443" and "8000-8099", sorted."""
    return tuple(sorted(_each_once(value, _port_range, "port")))


def _port_range(value: object) -> PortRange:
    found = _PORTS.fullmatch(value) if isinstance(value, str) else None
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= 65535:
        hint = 'must hold ports from 1 to 65535, each a text such as "443" or "8000-8099"'
        raise Invalid("range", f"{hint}, not {describe(value)}.")
    return PortRange(first, last)


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Invalid("type", f"must be true or false, not {describe(value)}.")
    return value


def choice(kind: type[_E]) -> Callable[[object], _E]:
    def read(value: object) -> _E:
        if not isinstance(value, str) or value not in {str(member) for member in kind}:
            known = ", ".join(kind)
            raise Invalid("choice", f"must be one of {known}, not {describe(value)}.")
        return kind(value)

    return read


def optional(read: Callable[[object], _T]) -> Callable[[object], _T | None]:
    return lambda value: None if value is None else read(value)


def service_name(value: object) -> str:
    if not isinstance(value, str) or not _SERVICE_NAME.fullmatch(value):
        raise Invalid(
            "name", f"must be 1 to 63 letters, digits, dots, underscores or hyphens, not {describe(value)}."
        )
    return value


def interface(value: object) -> str:
    if not isinstance(value, str) or not _INTERFACE.fullmatch(value) or value in {".", ".."}:
        raise Invalid(
            "interface",
            "must be the name of a network interface such as eth0 or bond0.100: 1 to 15 letters, digits, "
            f"dots, underscores or hyphens, not {describe(value)}.",
        )
    return value


def interfaces(value: object) -> tuple[str, ...]:
    return tuple(sorted(_each_once(value, interface, "interface")))


def description(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise Invalid("text", f"must be a text of at most 1000 characters, not {describe(value)}.")
    if any(ord(char) < 32 and char != "\n" for char in value) or "\x7f" in value:
        raise Invalid("text", "must not contain control characters.")
    if any("\ud800" <= char <= "\udfff" for char in value):
        # JSON can escape half a character; no text that is written anywhere can hold one.
        raise Invalid("text", f"must be text, not {describe(value)}.")
    return value


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
    found = _each_once(value, own_address, "address")
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


def _each_once(value: object, read: Callable[[object], _T], what: str) -> list[_T]:
    """What must not be said twice: the second time is more likely a slip than meant."""
    if not isinstance(value, list):
        raise Invalid("not-a-list", f"must be a list, not {describe(value)}.")
    found: dict[_T, None] = {}
    for item in map(read, value):
        if item in found:
            raise Invalid("duplicate", f"must name each {what} once; {item} is there twice.")
        found[item] = None
    return list(found)


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


def url_path(value: object) -> str:
    if not isinstance(value, str) or not _URL_PATH.fullmatch(value):
        raise Invalid("path", f"must begin with / and hold printable ASCII only, not {describe(value)}.")
    return value


def status_ranges(value: object) -> str:
    if not isinstance(value, str) or not _STATUS_RANGES.fullmatch(value):
        raise Invalid("status", f"must be HTTP statuses such as 200-399 or 200,204, not {describe(value)}.")
    if len(value) > _MAX_STATUS_RANGES:
        raise Invalid("status", f"must be a text of at most {_MAX_STATUS_RANGES} characters.")
    for low, high in read_status_ranges(value):
        if high < low:
            raise Invalid("status", f"must name the lower status of a range first, not {low}-{high}.")
    return value


def read_status_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """`200-299,301` as ((200, 299), (301, 301)); the text must be well-formed."""
    parts = (part.partition("-") for part in text.split(","))
    return tuple((int(low), int(high or low)) for low, _, high in parts)


def host_header(value: object) -> str:
    if not isinstance(value, str) or (value and not _is_host(value)):
        raise Invalid(
            "host",
            "must be a name or an address, with a port where it is needed, such as www.example.net or"
            f" [2001:db8::1]:8080, not {describe(value)}.",
        )
    return value


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None or int(found[3] or 1) > 65535 or len(found[1] or "") > 253:
        return False
    try:
        return found[2] is None or ip_address(found[2]).version == 6
    except ValueError:
        return False


def body_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_BODY_TEXT:
        raise Invalid(
            "text", f"must be a text of at most {_MAX_BODY_TEXT} characters, not {describe(value)}."
        )
    if not value.isprintable():
        raise Invalid("text", f"must be one line without control characters, not {describe(value)}.")
    return value


def payload(value: object) -> str:
    r"""Bytes as people write them, `\x00` for those that cannot be seen."""
    if not isinstance(value, str) or not is_payload(value):
        raise Invalid(
            "payload",
            f"must be at most {MAX_PAYLOAD} characters of printable ASCII; write other bytes as \\x00 to"
            f" \\xff, \\r, \\n or \\t, and a backslash as \\\\, not {describe(value)}.",
        )
    return value
