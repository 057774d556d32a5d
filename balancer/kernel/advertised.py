"""Default routes that routers advertise, which a machine that forwards IPv6 no longer takes. Reads only.

Turning forwarding on ends them at once, and later advertisements are ignored on every interface whose
accept_ra is 1 (ip-sysctl.rst; net/ipv6/addrconf.c, addrconf_fixup_forwarding).
"""

import json
from pathlib import Path

from balancer.kernel.tools import run_tool

_SETTINGS = Path("/proc/sys/net/ipv6/conf")


def warn_about_advertisements() -> tuple[str, ...]:
    """A sentence for each interface whose default route would go; call it before forwarding is turned on."""
    return tuple(_warning(name) for name in _advertised_interfaces() if _accepts_unless_forwarding(name))


def _advertised_interfaces() -> list[str]:
    """Empty where `ip` cannot say: there is no IPv6, then."""
    done = run_tool(["ip", "-6", "-json", "route", "show", "default"])
    if done.code != 0:
        return []
    routes = json.loads(done.output or "[]")
    return sorted({str(route["dev"]) for route in routes if route.get("protocol") == "ra" and "dev" in route})


def _accepts_unless_forwarding(interface: str) -> bool:
    try:
        return (_SETTINGS / interface / "accept_ra").read_text().strip() == "1"
    except OSError:
        return False


def _warning(interface: str) -> str:
    return (
        f"The IPv6 default route through {interface} comes from router advertisements. Linux drops it and"
        " ignores them as soon as IPv6 forwarding is on, which IPv6 services need, unless"
        f" net.ipv6.conf.{interface}.accept_ra is 2. Set that (lbadmin does not), or a fixed default route."
    )
