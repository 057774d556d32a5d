"""What the rules of this namespace have counted, read from the save tools' text with counters."""

import re
from collections import Counter, defaultdict

from balancer.domain.types import Family
from balancer.kernel.base import Flavour, Rejected
from balancer.kernel.counter_table import Reading, RuleKey, counts
from balancer.kernel.flavour import tool_name
from balancer.kernel.tools import run_tool
from balancer.ruleset.ir import OWN_PREFIX, Rule
from balancer.ruleset.marks import REFUSED
from balancer.ruleset.parse import tidy_save_text
from balancer.ruleset.render import render_rule
from balancer.ruleset.targets import SetConnMark

NO_BACKEND = render_rule(Rule(target=SetConnMark(REFUSED)))
"""What refuses in nat since the service has no backend."""
_TABLE = "*"
_RULE = re.compile(rf"\[(\d+):(\d+)\] -A ({OWN_PREFIX}\S+) (.*)")


def read_counters(*, flavour: Flavour, family: Family) -> Reading:
    """Raises KernelError. Without `-t`, which would make a table that is not there."""
    name = tool_name(flavour=flavour, verb="save", family=family)
    done = run_tool([name, "-c"])
    if done.code != 0:
        said = done.errors.strip() or done.code
        raise Rejected(f"Reading the kernel's counters failed: {name} said: {said}")
    return parse_counters(done.output, family=family)


def parse_counters(text: str, *, family: Family) -> Reading:
    table = ""
    backends: defaultdict[str, list[int]] = defaultdict(list)
    numbers: Counter[tuple[str, str]] = Counter()
    rules: dict[RuleKey, tuple[int, int, str]] = {}
    watched: dict[RuleKey, str] = {}
    for line in tidy_save_text(text).splitlines():
        if found := _RULE.match(line):
            packets, size, chain, rule = found.groups()
            number = numbers[table, chain]
            numbers[table, chain] += 1
            counts_here = table == "nat" and counts((rule,))
            if counts_here or (table == "nat" and rule == NO_BACKEND):
                watched[table, chain, number] = rule
            if counts_here:
                backends[chain].append(int(packets))
            elif packets != "0":
                rules[table, chain, number] = int(packets), int(size), rule
        elif line.startswith(_TABLE):
            table = line[1:]
    return Reading(
        family=family,
        backends={chain: tuple(counts) for chain, counts in backends.items()},
        lengths={chain: number for (of, chain), number in numbers.items() if of == "nat"},
        rules=rules,
        watched=watched,
    )
