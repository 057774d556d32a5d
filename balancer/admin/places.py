"""Where a service listens, as people write and read it: lists in one line, the first of each the main one."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = 4
"""Addresses or ports that a line names; the form and the page of the service show all of them."""
_RANGE = re.compile(r"([0-9]{1,20})[ \t]*-[ \t]*([0-9]{1,20})")

Data = dict[str, Any]


def describe_place(
    *, interfaces: Sequence[str], addresses: Sequence[str], ports: Sequence[str], protocol: str
) -> str:
    """`eth0 · any:80/tcp`, or `eth0, eth1 · 203.0.113.1, 203.0.113.2 · tcp 80, 8000-8099`."""
    where = ", ".join(interfaces)
    if len(addresses) <= 1 and len(ports) == 1:
        address = addresses[0] if addresses else "any"
        return f"{where} · {f'[{address}]' if ':' in address else address}:{ports[0]}/{protocol}"
    return f"{where} · {_some(addresses) or 'any'} · {protocol} {_some(ports)}"


def ports_text(data: Mapping[str, Any]) -> str:
    """The ports of a service of the document, `80, 443, 8000-8099`."""
    end = data.get("port_end")
    first = str(data["port"]) if end is None else f"{data['port']}-{end}"
    return ", ".join([first, *data.get("additional_ports", ())])


def addresses_text(data: Mapping[str, Any]) -> str:
    """Empty: any address."""
    first = [data["address"]] if data.get("address") else []
    return ", ".join([*first, *data.get("additional_addresses", ())])


def interfaces_text(data: Mapping[str, Any]) -> str:
    return ", ".join([data["interface"], *data.get("additional_interfaces", ())])


def read_ports(text: str) -> Data:
    """The keys of the document for it; what is no port stays as it was typed, for the domain to refuse."""
    first, rest = _first_and_rest(text)
    between = _RANGE.fullmatch(first)
    data: Data = {"port": whole_number(first)}
    if between:
        data = {"port": int(between[1]), "port_end": int(between[2])}
    return data | ({"additional_ports": [_RANGE.sub(r"\1-\2", one) for one in rest]} if rest else {})


def read_addresses(text: str) -> Data:
    first, rest = _first_and_rest(text)
    return {"address": first} | ({"additional_addresses": rest} if rest else {})


def read_interfaces(text: str) -> Data:
    first, rest = _first_and_rest(text)
    return {"interface": first} | ({"additional_interfaces": rest} if rest else {})


def read_list(text: str) -> list[str]:
    """What stands between commas; a comma too many says nothing."""
    return [one for part in text.split(",") if (one := part.strip(" \t"))]


def whole_number(text: str) -> int | str:
    """The number that a text stands for; the text itself where it is none, for the domain to refuse."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else text


def _first_and_rest(text: str) -> tuple[str, list[str]]:
    first, *rest = read_list(text) or [""]
    return first, rest


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
