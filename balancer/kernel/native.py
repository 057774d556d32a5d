"""Native nftables rules beside ours, looked at again and again and cheaply.

Where the generation of nf_tables is the same, nothing is read; where the ruleset is too, nothing is worked
out anew for a minute. A kernel without nf_tables has no such rules.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from balancer.domain.types import Family
from balancer.kernel.base import HostCheck
from balancer.kernel.generation import read_generation
from balancer.kernel.native_checks import Finding, describe_checks, find_deeds
from balancer.kernel.native_listing import Native, read_native
from balancer.kernel.native_packets import Chains, Ends, find_balanced, find_ends
from balancer.ruleset.ir import Ruleset, TableName
from balancer.ruleset.render import render_rule

AGAIN_SECONDS = 60.0
"""Routes to backends tell of no generation, and what could not be read is tried again."""
SLOW_SECONDS, REST, REST_MAX_SECONDS = 0.3, 20, 15.0
"""With tens of thousands of chains a look takes its time, and others may commit every second. What comes is
seen within 30 seconds all the same."""


@dataclass(frozen=True, slots=True)
class _Found:
    ruleset: Ruleset
    ends: Ends
    native: Native
    at: float
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class NativeWatch:
    """Of one kernel."""

    _native: Native = field(default_factory=Native)
    _generation: int | None = None
    _read_at: float = 0.0
    _rest: float = 0.0
    """How long what was read is good enough, whatever others commit: it was slow."""
    _found: dict[Family, _Found] = field(default_factory=dict)

    def read(self) -> Native:
        """Never raises."""
        generation = read_generation()
        if generation is None:
            self._native, self._generation = Native(), None
        elif (generation != self._generation and self._has_rested()) or (
            self._native.not_read and _is_old(self._read_at)
        ):
            started = time.monotonic()
            found = read_native()
            self._read_at = time.monotonic()
            took = self._read_at - started
            self._rest = min(took * REST, REST_MAX_SECONDS) if took > SLOW_SECONDS else 0.0
            self._generation = generation
            self._native = self._native if found == self._native else found
        return self._native

    def _has_rested(self) -> bool:
        return time.monotonic() - self._read_at >= self._rest

    def find_beside(self, ruleset: Ruleset) -> tuple[Finding, ...]:
        """What native rules do to what `ruleset` balances."""
        native, known = self.read(), self._found.get(ruleset.family)
        if not native.tables:
            return ()
        if known is not None and known.ruleset is ruleset:
            if known.native is native and not _is_old(known.at):
                return known.findings
            ends = known.ends
        else:
            ends = find_ends(_nat_of(ruleset))
        balanced = {ruleset.family: find_balanced(ends, family=ruleset.family)}
        found = find_deeds(native, balanced)
        self._found[ruleset.family] = _Found(ruleset, ends, native, time.monotonic(), found)
        return found

    def check(self, nat: Mapping[Family, Chains]) -> Iterator[HostCheck]:
        """The same of what the kernel holds: nat tables with our chains in them."""
        native = self.read()
        balanced = {
            family: find_balanced(find_ends(chains), family=family)
            for family, chains in nat.items()
            if native.tables
        }
        yield from describe_checks(native, find_deeds(native, balanced))


def _is_old(then: float) -> bool:
    return time.monotonic() - then >= AGAIN_SECONDS


def _nat_of(ruleset: Ruleset) -> Chains:
    found = next((table for table in ruleset.tables if table.name is TableName.NAT), None)
    return {} if found is None else {c: tuple(map(render_rule, rules)) for c, rules in found.chains.items()}
