"""Entries that are deleted, and their ends told: of a dead backend, of many, of what a flow table has."""

import struct
import time
from collections.abc import Iterator
from errno import EBUSY, ENOENT
from ipaddress import ip_address

import pytest

from balancer.domain.types import Family, Protocol
from balancer.kernel import conntrack, conntrack_delete, nudge
from balancer.kernel.base import Rejected
from balancer.kernel.conntrack import find_entries, reconcile_connections
from balancer.kernel.conntrack_delete import Direction, Entry, delete_entries
from balancer.kernel.nudge import nudge_ends
from tests.kernel.machine import Wires, document, service

NOBODY = "10.0.0.99"
"""In the network of the backends, and no machine has it."""


def entries(count: int, *, backend: str = NOBODY) -> tuple[Entry, ...]:
    node, client = ip_address("198.51.100.1"), ip_address("198.51.100.2")
    return tuple(
        Entry(
            protocol=Protocol.TCP,
            original=Direction(source=client, source_port=2000 + i, destination=node, port=80),
            reply=Direction(
                source=ip_address(backend), source_port=80, destination=ip_address("10.0.0.1"), port=2000 + i
            ),
            state="ESTABLISHED",
            id=1,
        )
        for i in range(count)
    )


def test_a_backend_that_is_dead_holds_nobody_up(wires: Wires) -> None:
    """Nobody answers for its address, so that what is sent there waits in the kernel for seconds."""
    with wires.balancer.entered():
        started = time.monotonic()
        nudge_ends(entries(600))
    assert time.monotonic() - started < 2


def test_many_connections_are_told_in_turns_as_the_table_is_everybodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[list[Direction]] = []
    monkeypatch.setattr(nudge, "_nudge", told.append)
    monkeypatch.setattr(nudge, "_AT_ONCE", 4)
    nudge_ends(entries(9))
    assert [len(ways) for ways in told] == [8, 8, 2]
    assert len({way for ways in told for way in ways}) == 18


class Kernel:
    """Answers to deletions with these errors; stands for a netlink socket."""

    def __init__(self, errors: dict[int, int]) -> None:
        self._errors, self._last = errors, 0

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        pass

    def send(self, data: bytes) -> None:
        while data:
            length, _, _, self._last, _ = struct.unpack_from("=IHHII", data)
            data = data[length:]

    def recv(self, size: int) -> bytes:
        answered = {**self._errors, self._last: self._errors.get(self._last, 0)}
        return b"".join(
            struct.pack("=IHHIIi", 20, 2, 0, number, 0, -code) for number, code in sorted(answered.items())
        )


def test_what_the_kernel_holds_on_to_is_named_after_all_others_are_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conntrack_delete.socket, "socket", lambda *_: Kernel({1: ENOENT, 3: EBUSY}))
    with pytest.raises(Rejected, match="1 of them are forwarded by a flow table"):
        delete_entries(entries(5))
    monkeypatch.setattr(conntrack_delete.socket, "socket", lambda *_: Kernel({1: ENOENT, 4: ENOENT}))
    assert delete_entries(entries(5)) == 3


OFFLOADED = (
    "tcp      6 src=198.51.100.2 dst=198.51.100.1 sport=2000 dport=80 src=10.0.0.3 dst=10.0.0.1 sport=80"
    " dport=2000 [OFFLOAD] mark=805306368 use=2 id=7\n"
)
"""As conntrack(8) prints what a flow table forwards: without seconds and state."""


def test_a_connection_that_a_flow_table_forwards_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "read_lines", lambda _: iter([OFFLOADED]))
    ((flow, entry),) = find_entries(lambda _: True, protocol=Protocol.TCP, family=Family.IPV4)
    assert flow.is_balanced
    assert (entry.state, entry.id, str(entry.reply.source)) == ("", 7, "10.0.0.3")
    told: list[list[Direction]] = []
    monkeypatch.setattr(nudge, "_nudge", told.append)
    nudge_ends([entry])
    assert len(told) == 1


@pytest.mark.parametrize(("disabled", "lists"), [(1, 1), (4, 4), (5, 1)])
def test_only_connections_of_disabled_backends_are_read_where_these_are_few(
    monkeypatch: pytest.MonkeyPatch, disabled: int, lists: int
) -> None:
    asked: list[list[str]] = []

    def read(arguments: list[str]) -> Iterator[str]:
        asked.append(arguments)
        return iter(())

    monkeypatch.setattr(conntrack, "read_lines", read)
    backends = [
        {"address": f"10.0.0.{n}", "state": "disabled" if n <= disabled else "enabled"} for n in range(1, 9)
    ]
    reconcile_connections(
        document=document(service(backends=backends)), family=Family.IPV4, local_addresses=frozenset()
    )
    of_tcp = [arguments for arguments in asked if "tcp" in arguments]
    assert len(of_tcp) == lists
    assert ("--reply-src" in of_tcp[0]) is (disabled <= 4)


def test_a_protocol_whose_entries_cannot_be_read_keeps_no_other_one_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def read(arguments: list[str]) -> Iterator[str]:
        asked.append(arguments[arguments.index("-p") + 1])
        if asked[-1] == "tcp":
            raise Rejected("No TCP today.")
        return iter(())

    monkeypatch.setattr(conntrack, "read_lines", read)
    off = document(service(backends=[{"address": "10.0.0.3", "state": "disabled"}]))
    found = reconcile_connections(document=off, family=Family.IPV4, local_addresses=frozenset())
    assert asked == ["tcp", "udp"]
    reconcile_connections(document=off, family=Family.IPV6, local_addresses=frozenset())
    assert asked[2:] == ["udp"], "of another family nobody is disabled"
    assert found.warnings == (
        "Connections (tcp) that the kernel remembers could not be brought in line: No TCP today.",
    )
