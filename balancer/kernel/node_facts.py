"""What a node is, put together for its page in the console. Reads only."""

import os
from collections.abc import Iterator
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel import sysctl
from balancer.kernel.advertised import warn_about_advertisements
from balancer.kernel.base import Flavour, HostCheck, KernelError, NodeFacts
from balancer.kernel.capabilities import describe_missing, recall_missing
from balancer.kernel.conntrack_use import read_use
from balancer.kernel.flavour import look_at_other_flavour
from balancer.kernel.host_checks import check_host
from balancer.kernel.native import NativeWatch
from balancer.kernel.network import list_interfaces
from balancer.kernel.selection import Selection
from balancer.kernel.tools import find_tool


def read_facts(
    *,
    selection: Selection,
    sysctl_path: Path | None,
    families: tuple[Family, ...],
    native: NativeWatch,
) -> NodeFacts:
    """Of the namespace of the calling thread. `families` are those of which it holds rules of ours.

    Raises KernelError where the machine cannot be read.
    """
    use = read_use()
    persisted = {
        family: sysctl_path is not None and sysctl.is_persisted(path=sysctl_path, family=family)
        for family in Family
    }
    return NodeFacts(
        flavour=selection.flavour,
        driver=selection.driver,
        driver_reason=selection.reason,
        kernel=os.uname().release,
        iptables_version=selection.version,
        interfaces=list_interfaces(),
        forwarding=sysctl.is_forwarding(family=Family.IPV4) is True,
        forwarding_persisted=persisted[Family.IPV4],
        forwarding_ipv6=sysctl.is_forwarding(family=Family.IPV6),
        forwarding_ipv6_persisted=persisted[Family.IPV6],
        cannot=describe_missing(recall_missing(selection.flavour, Family.IPV4), flavour=selection.flavour),
        checks=(
            *_check_tools(families, flavour=selection.flavour),
            *check_host(flavour=selection.flavour, families=families, use=use, native=native),
        ),
        conntrack=use,
    )


def _check_tools(families: tuple[Family, ...], *, flavour: Flavour) -> Iterator[HostCheck]:
    for family in families:
        try:
            warnings = look_at_other_flavour(flavour=flavour, family=family)
        except KernelError as error:
            warnings = (str(error),)
        for warning in warnings:
            yield HostCheck(id="other-flavour", message=warning)
    if find_tool("conntrack") is None:
        message = "The program conntrack is not installed: UDP clients stay on backends that were removed."
        yield HostCheck(id="conntrack-missing", message=message)
    for warning in warn_about_advertisements():
        yield HostCheck(id="router-advertisements", message=warning)
