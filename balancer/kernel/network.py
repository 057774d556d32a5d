"""The interfaces and addresses of the current network namespace."""

import json
from ipaddress import ip_interface

from balancer.domain.types import Address, Family
from balancer.kernel.base import Interface, KernelError, Rejected
from balancer.kernel.tools import run_tool


def list_interfaces() -> tuple[Interface, ...]:
    """Sorted by name. Raises Rejected when `ip` fails."""
    done = run_tool(["ip", "-json", "address"])
    if done.code != 0:
        raise Rejected(f"Reading the node's addresses failed: {done.errors.strip()}")
    found = [
        Interface(
            name=str(link["ifname"]),
            addresses=tuple(
                f"{entry['local']}/{entry['prefixlen']}"
                for entry in link.get("addr_info", ())
                if "local" in entry
            ),
        )
        for link in json.loads(done.output or "[]")
        if "ifname" in link
    ]
    return tuple(sorted(found, key=lambda interface: interface.name))


def local_addresses(*, family: Family) -> frozenset[Address]:
    """The addresses at which this namespace itself answers; empty where they cannot be read."""
    try:
        interfaces = list_interfaces()
    except KernelError:
        return frozenset()
    found = (ip_interface(text).ip for interface in interfaces for text in interface.addresses)
    return frozenset(address for address in found if (address.version == 4) == (family is Family.IPV4))
