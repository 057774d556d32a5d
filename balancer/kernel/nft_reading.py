"""What the rules of iptables-nft count: while they are as they were, only those that matter are read."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from balancer.domain.types import Family
from balancer.kernel.base import Flavour, KernelError
from balancer.kernel.counter_reading import read_counters
from balancer.kernel.counter_table import Reading, RuleKey, counts
from balancer.kernel.nft_rules import Counts, Handle, NftRules, rules_of

NONE: Collection[RuleKey] = frozenset()


@dataclass(slots=True)
class _Known:
    """Since some commit: the rules as text had them, and the handles once they were asked for."""

    generation: int
    reading: Reading
    refusing: Collection[RuleKey] = NONE
    handles: tuple[Handle, ...] | None = None


class NftReading:
    """Of one family. Lives as long as the process that reads, and remembers where the rules are."""

    def __init__(self, *, family: Family) -> None:
        self._family = family
        self._known: _Known | None = None

    def read(self, refusing: Collection[RuleKey] = NONE) -> Reading:
        """As `read_counters`, of rules that count connections or are `refusing`. Raises KernelError."""
        try:
            with rules_of(self._family) as rules:
                before = rules.generation()
                reading = self._read_again(rules, refusing, generation=before)
                if reading is None:
                    reading = read_counters(flavour=Flavour.NFT, family=self._family)
                    self._known = _Known(before, reading) if rules.generation() == before else None
                return reading
        except KernelError:
            self._known = None
            return read_counters(flavour=Flavour.NFT, family=self._family)

    def _read_again(
        self, rules: NftRules, refusing: Collection[RuleKey], *, generation: int
    ) -> Reading | None:
        """None where somebody committed something since the rules were read as text."""
        known = self._known
        if known is None or known.generation != generation:
            return None
        wanted = {*known.reading.watched, *refusing}
        if known.handles is None or known.refusing != refusing:
            known.handles, known.refusing = rules.find(wanted), refusing
        found = rules.counts(known.handles)
        if found is None or not found.keys() >= known.reading.watched.keys():
            return None
        return _with(known.reading, found) if rules.generation() == generation else None


def _with(reading: Reading, found: Mapping[RuleKey, Counts]) -> Reading:
    """The same rules with other counts."""
    backends: defaultdict[str, list[int]] = defaultdict(list)
    rules: dict[RuleKey, tuple[int, int, str]] = {}
    for rule, (packets, size) in found.items():
        text = reading.watched.get(rule, "")
        if counts((text,)):
            backends[rule[1]].append(packets)
        elif packets:
            rules[rule] = packets, size, text
    return replace(reading, backends={chain: tuple(each) for chain, each in backends.items()}, rules=rules)
