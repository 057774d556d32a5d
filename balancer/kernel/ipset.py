"""ipset(8), a process for however many sets: what is there, what is to be done, and letting go."""

import re
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.kernel.base import Rejected
from balancer.kernel.tools import read_lines, run_tool

RELEASE_SECONDS = 2.0
"""iptables-nft lets go of the sets of deleted rules some time after the commit (nf_tables_trans_destroy_work
in net/netfilter/nf_tables_api.c)."""
FAMILIES = {Family.IPV4: "inet", Family.IPV6: "inet6"}
_NO_SUPPORT = "Cannot open session to kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A set with a name of ours, as the kernel has it, whoever made it."""

    name: str
    kind: str
    header: str
    references: int
    entries: int

    def word(self, name: str) -> str | None:
        """The value of an option in its header."""
        value = re.search(rf"\b{name} (\S+)", self.header)
        return value[1] if value else None


def read_headers(is_ours: Callable[[str], object]) -> tuple[Found, ...]:
    """The sets whose names `is_ours` says are. None where the kernel has no sets at all."""
    blocks: list[dict[str, str]] = []
    try:
        for line in read_lines(["ipset", "list", "-t"]):
            key, _, value = line.partition(":")
            if key == "Name":
                blocks.append({})
            if blocks:
                blocks[-1][key] = value.strip()
    except Rejected as error:
        if _NO_SUPPORT in str(error):
            return ()
        raise
    return tuple(
        Found(
            name=block["Name"],
            kind=block["Type"],
            header=block["Header"],
            references=int(block["References"]),
            entries=int(block["Number of entries"]),
        )
        for block in blocks
        if is_ours(block["Name"])
    )


def carry_out(lines: Iterable[str], *, what: str) -> None:
    """Has ipset carry out these lines in one go, up to the first that fails: raises Rejected then."""
    text = "".join(lines)
    if not text:
        return
    done = run_tool(["ipset", "restore", "-exist"], text=text)
    if done.code != 0:
        said = (done.errors.strip() or str(done.code)).rstrip(".")
        raise Rejected(f"The {what} could not be changed: ipset said: {said}.")


def destroy(
    names: Collection[str], *, is_ours: Callable[[str], object], patience: float, what: str
) -> list[str]:
    """Empties these sets and destroys them; returns those that something uses still after so many seconds."""
    deadline = time.monotonic() + patience
    carry_out((f"flush {one.name}\n" for one in read_headers(is_ours) if one.name in names), what=what)
    while True:
        left = [one for one in read_headers(is_ours) if one.name in names]
        carry_out((f"destroy {one.name}\n" for one in left if not one.references), what=what)
        stuck = [one.name for one in left if one.references]
        if not stuck or time.monotonic() >= deadline:
            return stuck
        time.sleep(0.02)
