"""Readers of single values: each takes a JSON value and returns a domain value, or raises `Invalid` with a
sentence that goes on after the name of the field ("Port must be …"). Those of addresses and networks are in
`address_scalars`, those of health checks in `health_scalars`."""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

from balancer.domain.types import PortRange

Scalar = Callable[[object], Any]
_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")

_SERVICE_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
# The kernel allows more (dev_valid_name in net/core/dev.c); a trailing '+' is a wildcard to iptables and the
# rest is not worth the quoting.
_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}")
_PORTS = re.compile(r"([1-9]\d{0,4})(?:-([1-9]\d{0,4}))?")


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
    return tuple(sorted(each_once(value, _port_range, "port")))


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
    return tuple(sorted(each_once(value, interface, "interface")))


def description(value: object) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise Invalid("text", f"must be a text of at most 1000 characters, not {describe(value)}.")
    if any(ord(char) < 32 and char != "\n" for char in value) or "\x7f" in value:
        raise Invalid("text", "must not contain control characters.")
    if any("\ud800" <= char <= "\udfff" for char in value):
        # JSON can escape half a character; no text that is written anywhere can hold one.
        raise Invalid("text", f"must be text, not {describe(value)}.")
    return value


def each_once(value: object, read: Callable[[object], _T], what: str) -> list[_T]:
    """What must not be said twice: the second time is more likely a slip than meant."""
    if not isinstance(value, list):
        raise Invalid("not-a-list", f"must be a list, not {describe(value)}.")
    found: dict[_T, None] = {}
    for item in map(read, value):
        if item in found:
            raise Invalid("duplicate", f"must name each {what} once; {item} is there twice.")
        found[item] = None
    return list(found)
