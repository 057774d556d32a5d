"""Comparing what the kernel holds with a ruleset, again and again and cheaply.

Most looks find what the last one found. So the text of the save tool is kept as a digest, without its
counters, for the ruleset that it was found to carry: while that stays the same nothing is parsed. While the
generation of nf_tables stays the same, not even the text is read.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel import sysctl
from balancer.kernel.base import Difference, Flavour, Rejected
from balancer.kernel.beside import rules_beside
from balancer.kernel.dormant import describe_dormant, find_dormant
from balancer.kernel.flavour import parse_text, read_text
from balancer.kernel.generation import read_generation
from balancer.kernel.host_checks import read_settings
from balancer.kernel.idle import is_idle, want_of
from balancer.kernel.native import NativeWatch
from balancer.kernel.native_checks import describe_lines
from balancer.kernel.network_sets import compare_lists
from balancer.kernel.others import find_programs, rules_before
from balancer.kernel.plan import describe_difference
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.parse import Snapshot

READS = 2
"""A difference is looked at again: iptables-nft-save 1.8.9 was seen to print a table in the middle of a
commit that somebody else made."""
_LEGACY_TABLES = {
    Family.IPV4: Path("/proc/thread-self/net/ip_tables_names"),
    Family.IPV6: Path("/proc/thread-self/net/ip6_tables_names"),
}
_MOVING = re.compile(r"^#.*\n| \[\d+:\d+\]$", re.MULTILINE)
"""What the save tools print anew each time: when it was, and the counters of chains."""


@dataclass(frozen=True, slots=True)
class _Carried:
    """What was found to be carried, and as what."""

    ruleset: Ruleset
    digest: bytes
    before: tuple[str, ...]
    """Rules of others before our jumps."""
    generation: int | None
    """Of nf_tables, from before the look; None of legacy tables."""


@dataclass(slots=True)
class Comparer:
    """Of one kernel; remembers for each family what was carried last."""

    flavour: Flavour
    native: NativeWatch = field(default_factory=NativeWatch)
    _carried: dict[Family, _Carried] = field(default_factory=dict)

    def compare(self, ruleset: Ruleset) -> Difference:
        """See `Kernel.compare`."""
        found = self._compare(ruleset)
        beside = self.native.find_beside(ruleset) if found.in_sync else ()
        lines = describe_lines(beside)
        programs = {one.program for one in beside if one.program is not None}
        programs.update(found.programs or (find_programs() if lines else ()))
        asleep = find_dormant(ruleset.family) if self.flavour is Flavour.NFT and found.in_sync else ()
        before = (*found.before, *describe_dormant(asleep), *lines)
        return replace(
            found,
            before=before,
            programs=tuple(sorted(programs)),
            machine=digest_text("\n".join((*before, *read_settings(), self._other(ruleset.family)))).hex(),
        )

    def _other(self, family: Family) -> str:
        """Another text where the other flavour holds something else, which its check is about."""
        if self.flavour is Flavour.LEGACY:
            return str(read_generation())
        try:
            if not _LEGACY_TABLES[family].read_text():
                return ""  # nobody has ever used it
            return digest_text(read_text(flavour=Flavour.LEGACY, family=family)).hex()
        except (OSError, Rejected):
            return ""

    def _compare(self, ruleset: Ruleset) -> Difference:
        generation = read_generation() if self.flavour is Flavour.NFT else None
        if (carried := self._find_unchanged(ruleset, generation)) is not None:
            return _difference(ruleset, lines=(), before=carried.before, held=None)
        lines: tuple[str, ...] = ()
        held = None
        for _ in range(READS):
            text = self._read(ruleset)
            held = None if text is None else self._parse(text, ruleset)
            wanted = want_of(ruleset, held=held)
            lines = describe_difference(snapshot=held or Snapshot(), wanted=wanted, family=ruleset.family)
            if not lines:
                before = _others(held, ruleset) if held is not None and wanted else ()
                if text is not None:
                    found = _Carried(ruleset, digest_text(text), before, generation)
                    self._carried[ruleset.family] = found
                return _difference(ruleset, lines=(), before=before, held=held)
        return _difference(ruleset, lines=lines, before=(), held=held)

    def _find_unchanged(self, ruleset: Ruleset, generation: int | None) -> _Carried | None:
        """What was carried, where the kernel holds just that; else None."""
        carried = self._carried.get(ruleset.family)
        if carried is None or carried.ruleset is not ruleset:
            return None
        if generation is not None and generation == carried.generation:
            return carried
        text = self._read(ruleset)
        if text is None or digest_text(text) != carried.digest:
            return None
        self._carried[ruleset.family] = replace(carried, generation=generation)
        return carried

    def _read(self, ruleset: Ruleset) -> str | None:
        """None where that cannot be read, and need not be."""
        try:
            return read_text(flavour=self.flavour, family=ruleset.family)
        except Rejected:
            if is_idle(ruleset):
                return None
            raise

    def _parse(self, text: str, ruleset: Ruleset) -> Snapshot | None:
        try:
            return parse_text(text)
        except Rejected:
            if is_idle(ruleset):
                return None
            raise


def _others(held: Snapshot, ruleset: Ruleset) -> tuple[str, ...]:
    return *rules_before(held, family=ruleset.family), *rules_beside(held, family=ruleset.family)


def digest_text(text: str) -> bytes:
    """Of a saved text, whatever its counters and its time."""
    return hashlib.blake2b(_MOVING.sub("", text).encode("utf-8", "surrogateescape")).digest()


def _difference(
    ruleset: Ruleset, *, lines: tuple[str, ...], before: tuple[str, ...], held: Snapshot | None
) -> Difference:
    # ipset tells of no generation: lists are read each time.
    found = (*lines, *compare_lists(ruleset), *_settings(ruleset))
    programs = find_programs(*([held] if held else [])) if found or before else ()
    return Difference(in_sync=not found, lines=found, before=before, programs=programs)


def _settings(ruleset: Ruleset) -> tuple[str, ...]:
    """Settings that every sync of such a ruleset turns on."""
    if is_idle(ruleset) or not any(table.chains for table in ruleset.tables):
        return ()
    return tuple(f"+ sysctl: {setting}" for setting in sysctl.missing_settings(family=ruleset.family))
