"""One look at what a node does: connections, listeners, and what INPUT drops. Reads only."""

import time
from collections import Counter

from balancer.domain.observation import ConnectionCount, InputPath, Observation
from balancer.domain.types import Address, Family, Protocol, format_endpoint
from balancer.kernel.base import Flavour
from balancer.kernel.conntrack import Flows, count_entries
from balancer.kernel.flavour import read_if_any, read_snapshot, tool_name
from balancer.kernel.input_rules import find_input_path
from balancer.kernel.native_input import find_native_paths
from balancer.kernel.native_listing import Native
from balancer.kernel.network import list_listeners, local_addresses
from balancer.kernel.tools import find_tool
from balancer.ruleset.parse import Snapshot

PROTOCOLS = (Protocol.TCP, Protocol.UDP)
UNBALANCED_KEPT = 1000
"""Addresses and ports: whoever sends datagrams to every port must not make the row grow."""


def observe_machine(*, flavour: Flavour, native: Native) -> Observation:
    """`native` is what was read of rules of nft itself.

    Raises KernelError where a part cannot be read: half a look would be taken for the whole.
    """
    started = time.monotonic()
    return Observation(
        connections=tuple(found for family in Family for found in count_connections(family=family)),
        listeners=list_listeners(),
        inputs=(
            *(path for family in Family for path in _input_paths(flavour=flavour, family=family)),
            *find_native_paths(native),
        ),
        duration_ms=round((time.monotonic() - started) * 1000),
    )


def count_connections(*, family: Family) -> tuple[ConnectionCount, ...]:
    """What our services balance, and UDP flows to the machine itself. The table is read line by line."""
    local = local_addresses(family=family)
    entries: Counter[Flows] = Counter()
    established: Counter[Flows] = Counter()
    unbalanced: Counter[Flows] = Counter()
    for protocol in PROTOCOLS:
        for (flows, state), count in count_entries(protocol=protocol, family=family).items():
            if flows.is_balanced:
                entries[flows] += count
                established[flows] += count if state in {"", "ESTABLISHED"} else 0
            elif _is_to_machine(flows, local=local):
                unbalanced[flows] += count
    kept = Counter(dict(unbalanced.most_common(UNBALANCED_KEPT)))
    return _merge(entries + kept, established + kept)


def _is_to_machine(flows: Flows, *, local: frozenset[Address]) -> bool:
    return flows.protocol is Protocol.UDP and not flows.is_translated and flows.address in local


def _merge(entries: Counter[Flows], established: Counter[Flows]) -> tuple[ConnectionCount, ...]:
    """Marks differ where a service's source NAT was changed; to a reader it is one backend."""
    total: Counter[tuple[Protocol, Address, int, str]] = Counter()
    alive: Counter[tuple[Protocol, Address, int, str]] = Counter()
    for flows, count in entries.items():
        backend = format_endpoint(address=flows.answered_by, port=flows.answered_port)
        key = flows.protocol, flows.address, flows.port, backend if flows.is_translated else ""
        total[key] += count
        alive[key] += established[flows]
    return tuple(
        ConnectionCount(
            protocol=protocol,
            address=address,
            port=port,
            backend=backend,
            entries=count,
            established=alive[protocol, address, port, backend],
        )
        for (protocol, address, port, backend), count in sorted(total.items(), key=str)
    )


def _input_paths(*, flavour: Flavour, family: Family) -> tuple[InputPath, ...]:
    """One for each flavour whose tools the machine has, ours first."""
    held = {
        flavour: _read_own(flavour=flavour, family=family),
        flavour.other: _read_if_there(flavour=flavour.other, family=family),
    }
    return tuple(
        find_input_path(snapshot, flavour=one, family=family)
        for one, snapshot in held.items()
        if snapshot is not None
    )


def _read_own(*, flavour: Flavour, family: Family) -> Snapshot | None:
    if family is Family.IPV4:
        return read_snapshot(flavour=flavour, family=family)
    return _read_if_there(flavour=flavour, family=family)


def _read_if_there(*, flavour: Flavour, family: Family) -> Snapshot | None:
    if find_tool(tool_name(flavour=flavour, verb="save", family=family)) is None:
        return None
    return read_if_any(flavour=flavour, family=family)
