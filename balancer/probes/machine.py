"""What a probe has to know of the network namespace in which it stands. Reads only."""

import json
import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from balancer.domain.types import Address, Family, Network, format_endpoint
from balancer.probes.base import ProbeError

COMMAND_SECONDS = 3.0
_SETTINGS = Path("/proc/sys/net/ipv4/conf")
_NOT_A_WAY = frozenset({"blackhole", "unreachable", "prohibit", "throw"})
_PERHAPS_BROADCAST = (0, 255)
STRICT = 1
"""rp_filter: the way back to the source has to lead through the interface it came in by (RFC 3704)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    up: bool
    addresses: tuple[Address, ...]
    """Of both families; none of IPv6 that is for one link only."""

    def addresses_of(self, family: Family) -> tuple[Address, ...]:
        return tuple(a for a in self.addresses if (a.version == 6) == (family is Family.IPV6))


def read_links() -> dict[str, Link]:
    """Interface -> what it is. Raises ProbeError when `ip` fails."""
    found = json.loads(run(["ip", "-json", "address", "show"]) or "[]")
    return {
        entry["ifname"]: Link(up="UP" in entry.get("flags", ()), addresses=_addresses(entry))
        for entry in found
        if "ifname" in entry
    }


def reverse_path_filter(interface: str) -> int:
    """0 off, 1 strict, 2 loose: the greater of the two settings counts (ip-sysctl.rst). IPv6 has none."""
    return max(int((_SETTINGS / name / "rp_filter").read_text()) for name in ("all", interface))


def free_addresses(
    *, network: Network, count: int, taken: Collection[Address], setting: str = "LBADMIN_PROBE_NETWORK"
) -> tuple[Address, ...]:
    """Addresses from the end of `network` that neither a route inside it nor `taken` holds. Or ProbeError."""
    used = _routes_inside(network)
    found: list[Address] = []
    address: Address
    position = int(network.broadcast_address) - 1
    while len(found) < count and position > int(network.network_address):
        address = network[position - int(network.network_address)]
        holder = next((route for route in used if address in route), None)
        if holder is not None:
            position = int(holder.network_address) - 1
            continue
        if address not in taken and address.packed[-1] not in _PERHAPS_BROADCAST:
            found.append(address)
        position -= 1
    if len(found) < count:
        raise ProbeError(
            f"The network {network}, from which the probe takes its source addresses, is in use on this node."
            f" Set {setting} to a network that is free."
        )
    return tuple(found)


def who_answers(*, source: Address, source_port: int, address: str, port: int) -> str | None:
    """The endpoint to which a TCP connection was sent, by connection tracking; None where that does not know.

    An entry is there once the first packet has left the machine or reached a socket of it.
    """
    # The addresses tell the family; -f is refused together with -G.
    flow = ["-p", "tcp", "-s", str(source), "--sport", str(source_port), "-d", address, "--dport", str(port)]
    try:
        words = run(["conntrack", "-G", *flow]).split()
    except ProbeError:
        return None
    sources = [word[4:] for word in words if word.startswith("src=")]
    ports = [word[6:] for word in words if word.startswith("sport=")]
    if len(sources) != 2 or len(ports) != 2:
        return None
    return format_endpoint(address=ip_address(sources[1]), port=int(ports[1]))


def run(command: Sequence[str], *, lines: Sequence[str] = (), check: bool = True) -> str:
    """The output of a tool, or ProbeError with its own words; `lines` go to its standard input."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command,
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            env={**os.environ, "PATH": path, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise ProbeError(f"The program {command[0]} is not installed on this node.") from error
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"{command[0]} did not finish within {COMMAND_SECONDS:.0f} seconds.") from error
    if check and done.returncode:
        complaint = " ".join(done.stderr.split())
        raise ProbeError(f"The node refuses the probe's way in: {command[0]} said: {complaint}.")
    return done.stdout


def _addresses(entry: dict[str, Any]) -> tuple[Address, ...]:
    found = [ip_address(one["local"]) for one in entry.get("addr_info", ()) if "local" in one]
    return tuple(a for a in found if not a.is_loopback and not (a.version == 6 and a.is_link_local))


def _routes_inside(network: Network) -> tuple[Network, ...]:
    """What is routed to somewhere within the network; a wider route is no user of it (the default, say)."""
    family = f"-{network.version}"
    command = ["ip", "-json", family, "route", "show", "table", "all", "root", str(network)]
    routes = json.loads(run(command) or "[]")
    ways = (route for route in routes if route.get("type") not in _NOT_A_WAY)
    return tuple(ip_network(route["dst"]) for route in ways if route.get("dst", "default") != "default")
