"""The interfaces and addresses of the current network namespace."""

import json
from ipaddress import ip_address, ip_interface

from balancer.domain.observation import Listener
from balancer.domain.types import Address, Family, Protocol
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


def list_listeners() -> tuple[Listener, ...]:
    """Sorted; loopback is left out. Raises Rejected when `ss` fails.

    Of both families at once: a socket of IPv6 may take IPv4 connections too, and then ss prints it as `*`.
    """
    done = run_tool(["ss", "-H", "-l", "-t", "-u", "-n"])
    if done.code != 0:
        raise Rejected(f"Reading where this machine listens failed: ss said: {done.errors.strip()}")
    found = (_listener(line) for line in done.output.splitlines())
    return tuple(sorted({listener for listener in found if listener is not None}))


def _listener(line: str) -> Listener | None:
    """`tcp LISTEN 0 128 0.0.0.0%eth1:80 0.0.0.0:*`; None for loopback, and for what is no such line."""
    try:
        protocol, _, _, _, local = line.split()[:5]
        place, _, port = local.rpartition(":")
        place, _, interface = place.partition("%")
        interface = interface.rstrip("]")
        address = place.strip("[]")
        if interface == "lo" or (address != "*" and _is_loopback(address)):
            return None
        return Listener(
            protocol=Protocol(protocol),
            address=_unmapped(address),
            port=int(port),
            interface=interface,
        )
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    return ip_address(_unmapped(address)).is_loopback


def _unmapped(address: str) -> str:
    """An IPv6 socket at `::ffff:10.0.0.1` takes IPv4 connections to 10.0.0.1."""
    return address.removeprefix("::ffff:") if address.count(".") == 3 else address
