"""A balancer that is asked: rules in its kernel, backends that listen or do not."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from balancer.domain.types import Document
from balancer.kernel.base import Flavour, ensure_own_namespace
from balancer.kernel.node import NodeKernel
from balancer.probes.base import ServiceProbe
from balancer.probes.through import probe_services
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset
from tests.kernel.machine import BACKENDS, Wires, document, run


class Balancer:
    """The test stands in its namespace. Backends are behind eth1, clients would be behind eth0."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        for name in ("all", "default", "eth0", "eth1"):
            self.filter_reverse_paths(name, 0)
        with wires.backend.entered():
            run("ip", "route", "add", "default", "via", "10.0.0.1")

    def filter_reverse_paths(self, interface: str, value: int) -> None:
        Path(f"/proc/sys/net/ipv4/conf/{interface}/rp_filter").write_text(str(value))

    def listen(self, *, addresses: Sequence[str] = BACKENDS, port: int = 80) -> None:
        with self.wires.backend.entered():
            for address in addresses:
                self.wires.keep(socket.create_server((address, port)))

    def carry(self, *services: dict[str, Any], flavour: Flavour, rules: Ruleset | None = None) -> Document:
        found = document(*services)
        NodeKernel(flavour=flavour).sync(ruleset=rules or compile_document(found), document=found)
        return found


def ask(found: Document, *names: str, **options: Any) -> dict[str, ServiceProbe]:
    """By service; of the whole document where no names are given."""
    results = probe_services(
        document=found,
        services=frozenset(names or (s.name for s in found.services)),
        ensure_allowed=lambda: ensure_own_namespace(this_host=False),
        **options,
    )
    return {result.service: result for result in results}


def seen_around() -> str:
    """Links, addresses, routes, filters and rules of the namespace, without what comes by itself."""
    commands = (
        ("ip", "-brief", "link"),
        ("ip", "-4", "address"),
        ("ip", "-4", "route", "show", "table", "all"),
        ("ip", "rule"),
        ("tc", "qdisc"),
        ("tc", "filter", "show", "dev", "eth0", "ingress"),
        ("iptables-legacy-save",),
        ("iptables-nft-save",),
    )
    text = "".join(run(*command, check=False) for command in commands)
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith(("#", ":")))
