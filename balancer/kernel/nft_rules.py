"""Rules of iptables-nft asked for one by one, for their counters (nf_tables: linux/netfilter/nf_tables.h).

A rule costs 4 microseconds by its handle. `iptables-nft-save -c` makes text of all rules there are, which is
five times dearer at three rules for each that counts.
"""

import socket
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.kernel.base import Rejected
from balancer.kernel.counter_table import RuleKey
from balancer.kernel.netlink import (
    DONE,
    DUMP,
    ERROR,
    FAMILY_HEAD,
    NETFILTER,
    REQUEST,
    attribute,
    attributes,
    message,
    messages,
)

_GET_RULE, _GET_GENERATION = 10 << 8 | 7, 10 << 8 | 16
_TABLE, _CHAIN, _HANDLE = 1, 2, 3
_GENERATION_ID = 1
_COUNTER = attribute(1, b"counter\0") + struct.pack("=HHHH", 28, 2, 12, 1)
"""How the expression begins; then bytes, the head of an attribute, and packets."""
_COUNTS = struct.Struct("!Q4xQ")
_BATCH = 32
"""Answers that surely fit into a socket's buffer of any size that there is."""
_RECEIVED_BYTES = 1 << 17
_TIMEOUT = struct.pack("ll", 10, 0)

Counts = tuple[int, int]
"""Packets and bytes."""


@dataclass(frozen=True, slots=True)
class Handle:
    rule: RuleKey
    request: bytes
    """What asks for the rule, behind the head of the message."""


@contextmanager
def rules_of(family: Family) -> Iterator["NftRules"]:
    """The rules of one family in the calling thread's network namespace. Raises Rejected, also later on."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as kernel:
            kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
            kernel.bind((0, 0))
            yield NftRules(kernel, socket.AF_INET6 if family is Family.IPV6 else socket.AF_INET)
    except OSError as error:
        said = error.strerror or error
        raise Rejected(f"Reading the kernel's counters failed: nf_tables said: {said}") from error


class NftRules:
    def __init__(self, kernel: socket.socket, family: int) -> None:
        self._kernel, self._family = kernel, family

    def generation(self) -> int:
        """Another number after every commit of anybody to nf_tables in this namespace."""
        self._ask(_GET_GENERATION, b"")
        data = self._kernel.recv(_RECEIVED_BYTES)
        for kind, _, start, end in messages(data):
            if kind != ERROR:
                found = attributes(data, start + FAMILY_HEAD, end)
                return int(struct.unpack_from("!I", data, found[_GENERATION_ID][0])[0])
        raise OSError(0, "no generation")

    def find(self, wanted: Iterable[RuleKey]) -> tuple[Handle, ...]:
        """Handles of those of the rules that are there, each in its place in its chain.

        Chain by chain: where the kernel tells all rules of a table, it counts them from the first one again
        for each 32 KiB of them, which takes 5 seconds of a core with 120,000.
        """
        numbers: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for table, chain, number in wanted:
            numbers[table, chain].add(number)
        return tuple(
            Handle((table, chain, number), request)
            for (table, chain), few in numbers.items()
            for number, request in enumerate(self._requests(table, chain))
            if number in few
        )

    def counts(self, handles: Sequence[Handle]) -> Mapping[RuleKey, Counts] | None:
        """What the rules hold; None where one of them has gone or does not count."""
        found: dict[RuleKey, Counts] = {}
        for first in range(0, len(handles), _BATCH):
            batch = handles[first : first + _BATCH]
            self._send((_GET_RULE, number, handle.request) for number, handle in enumerate(batch))
            for _ in batch:
                data = self._kernel.recv(_RECEIVED_BYTES)
                at = data.find(_COUNTER)
                if at < 0:
                    return None
                size, packets = _COUNTS.unpack_from(data, at + len(_COUNTER))
                found[batch[struct.unpack_from("=I", data, 8)[0]].rule] = packets, size
        return found

    def _requests(self, table: str, chain: str) -> Iterator[bytes]:
        """What asks for each rule of the chain again, in their order."""
        place = _name(_TABLE, table) + _name(_CHAIN, chain)
        self._ask(_GET_RULE, place, flags=DUMP)
        while True:
            data = self._kernel.recv(_RECEIVED_BYTES)
            for kind, _, start, end in messages(data):
                if kind in {DONE, ERROR}:  # an error where there is no such chain
                    return
                handle = attributes(data, start + FAMILY_HEAD, end)[_HANDLE]
                yield place + attribute(_HANDLE, data[slice(*handle)])

    def _ask(self, kind: int, body: bytes, *, flags: int = 0) -> None:
        self._kernel.send(message(kind, flags=REQUEST | flags, number=0, family=self._family, body=body))

    def _send(self, asked: Iterable[tuple[int, int, bytes]]) -> None:
        self._kernel.send(
            b"".join(
                message(kind, flags=REQUEST, number=number, family=self._family, body=body)
                for kind, number, body in asked
            )
        )


def _name(kind: int, name: str) -> bytes:
    return attribute(kind, name.encode() + b"\0")
