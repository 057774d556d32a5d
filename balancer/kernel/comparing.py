"""Comparing what the kernel holds with a ruleset, again and again and cheaply.

Most looks find what the last one found. So the text of the save tool is kept as a digest, without its
counters, for the ruleset that it was found to carry; while that stays the same nothing is parsed.
"""

import hashlib
import re
from dataclasses import dataclass, field

from balancer.domain.types import Family
from balancer.kernel import sysctl
from balancer.kernel.base import Difference, Flavour, Rejected
from balancer.kernel.flavour import parse_text, read_text
from balancer.kernel.idle import is_idle, want_of
from balancer.kernel.others import find_programs, rules_before
from balancer.kernel.plan import Wanted, describe_difference
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.parse import Snapshot

READS = 2
"""A difference is looked at again: iptables-nft-save 1.8.9 was seen to print a table in the middle of a
commit that somebody else made."""
_MOVING = re.compile(r"^#.*\n| \[\d+:\d+\]$", re.MULTILINE)
"""What the save tools print anew each time: when it was, and the counters of chains."""


@dataclass(slots=True)
class Comparer:
    """Of one kernel; remembers for each family the ruleset that was carried last, and as which text."""

    flavour: Flavour
    _carried: dict[Family, tuple[Ruleset, bytes, tuple[str, ...]]] = field(default_factory=dict)

    def compare(self, ruleset: Ruleset) -> Difference:
        """See `Kernel.compare`."""
        before = self._find_unchanged(ruleset)
        if before is not None:
            return _difference(ruleset, lines=(), before=before, held=None)
        lines: tuple[str, ...] = ()
        held = None
        for _ in range(READS):
            text = self._read(ruleset)
            held = None if text is None else self._parse(text, ruleset)
            wanted = want_of(ruleset, held=held)
            lines = describe_difference(snapshot=held or Snapshot(), wanted=wanted, family=ruleset.family)
            if not lines:
                return self._remember(ruleset, text, held, wanted)
        return _difference(ruleset, lines=lines, before=(), held=held)

    def _find_unchanged(self, ruleset: Ruleset) -> tuple[str, ...] | None:
        """The rules of others before ours, where the kernel holds what it was found to hold; else None."""
        carried = self._carried.get(ruleset.family)
        if carried is None or carried[0] is not ruleset:
            return None
        text = self._read(ruleset)
        return carried[2] if text is not None and digest_text(text) == carried[1] else None

    def _remember(
        self, ruleset: Ruleset, text: str | None, held: Snapshot | None, wanted: Wanted
    ) -> Difference:
        before = rules_before(held, family=ruleset.family) if held is not None and wanted else ()
        if text is not None:
            self._carried[ruleset.family] = ruleset, digest_text(text), before
        return _difference(ruleset, lines=(), before=before, held=held)

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


def digest_text(text: str) -> bytes:
    """Of a saved text, whatever its counters and its time."""
    return hashlib.blake2b(_MOVING.sub("", text).encode("utf-8", "surrogateescape")).digest()


def _difference(
    ruleset: Ruleset, *, lines: tuple[str, ...], before: tuple[str, ...], held: Snapshot | None
) -> Difference:
    found = (*lines, *_settings(ruleset))
    programs = find_programs(*([held] if held else [])) if found or before else ()
    return Difference(in_sync=not found, lines=found, before=before, programs=programs)


def _settings(ruleset: Ruleset) -> tuple[str, ...]:
    """Settings that every sync of such a ruleset turns on."""
    if is_idle(ruleset) or not any(table.chains for table in ruleset.tables):
        return ()
    return tuple(f"+ sysctl: {setting}" for setting in sysctl.missing_settings(family=ruleset.family))
