"""On which interface a client is, as far as that can be told from the addresses of its connection.

Connection tracking does not say it. Two things have to agree: the answers to the client leave by an interface
(the kernel's own routing, rules by source address included), and the client spoke to an address of that
interface. Where they do not, nobody knows.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface

from balancer.domain.types import Address
from balancer.kernel.network import list_interfaces
from balancer.kernel.tools import run_tool

Ends = tuple[Address, Address]
"""The client's address, and the one to which it spoke."""
_ROUTE = re.compile(r"(\S+) from (\S+) (?:.* )?dev (\S+)")


def find_client_interfaces(ends: Iterable[Ends]) -> dict[Ends, str]:
    """Those that can be told. Raises KernelError where routes or addresses cannot be read."""
    asked = sorted(set(ends), key=str)
    if not asked:
        return {}
    own = {
        (interface.name, ip_interface(text).ip)
        for interface in list_interfaces()
        for text in interface.addresses
    }
    questions = "".join(f"route get {client} from {address}\n" for client, address in asked)
    # Clients without a route are left out, and those behind them are asked for all the same.
    answers = run_tool(["ip", "-oneline", "-force", "-batch", "-"], text=questions).output
    found: dict[Ends, str] = {}
    for line in answers.splitlines():
        route = _ROUTE.match(line)
        if route is not None:
            client, address, interface = ip_address(route[1]), ip_address(route[2]), route[3]
            if (interface, address) in own:
                found[client, address] = interface
    return found
