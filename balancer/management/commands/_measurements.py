"""Real connections through the balancers of the demo, beside what was promised of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from balancer.domain.types import Document, Family
from balancer.kernel.base import Flavour
from balancer.kernel.flavour import tool_name
from balancer.kernel.idle import want_of
from balancer.kernel.plan import describe_difference
from balancer.lab.article import EXPECTED_LOSS, load_rules, method_one, method_two
from balancer.lab.topology import Lab
from balancer.lab.traffic import Report, open_connections
from balancer.ruleset.compile import compile_document
from balancer.ruleset.parse import parse_save

FLAVOURS = {"lb1": "legacy", "lb2": "nft"}
DRIVERS = {"lb1": "python-iptables", "lb2": "iptables-restore"}
BACKENDS = ("10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80", "10.0.0.6:80")
CONNECTIONS = 400
CHI_SQUARE_MAX = 44.841
"""Three degrees of freedom, p = 1e-9: a correct kernel fails one run in five hundred million. That of the
article, had it lost nothing, would be at 50 and more."""
ARTICLE_TIMEOUT = 0.5
WIDTH = 27

Judge = Callable[[Report], str | None]
"""A sentence on what differs from the promise, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    balancer: str
    report: Report
    problem: str | None


def measure_article(*, lab: Lab) -> list[Row]:
    """Both methods as printed, on both balancers of a lab of their own."""
    rows = []
    for title, rules in (("article, method 1", method_one()), ("article, method 2", method_two())):
        for balancer, flavour in FLAVOURS.items():
            load_rules(lab=lab, machine=balancer, flavour=flavour, rules=rules)
            report = _connect(lab=lab, balancer=balancer, count=CONNECTIONS, timeout=ARTICLE_TIMEOUT)
            rows.append(Row(title=title, balancer=balancer, report=report, problem=judge_article(report)))
    return rows


def measure_ours(*, lab: Lab, title: str, judge: Judge, count: int = CONNECTIONS) -> list[Row]:
    rows = []
    for balancer in FLAVOURS:
        report = _connect(lab=lab, balancer=balancer, count=count, timeout=2.0)
        rows.append(Row(title=title, balancer=balancer, report=report, problem=judge(report)))
    return rows


def differences(*, lab: Lab, document: Document) -> list[str]:
    """What the kernel of each balancer has too much (-) or too little (+) of the document's rules."""
    lines = []
    for balancer, flavour in FLAVOURS.items():
        for family in Family:
            command = tool_name(flavour=Flavour(flavour), verb="save", family=family)
            saved = parse_save(lab.run(machine=balancer, command=[command]))
            wanted = want_of(compile_document(document, family=family), held=saved)
            found = describe_difference(snapshot=saved, wanted=wanted, family=family)
            lines += [f"{balancer}: {line}" for line in found]
    return lines


def judge_exact(expected: Mapping[str, int]) -> Judge:
    def judge(report: Report) -> str | None:
        if report.answered == dict(expected) and not report.lost_total:
            return None
        return f"promised {'/'.join(map(str, expected.values()))} with none lost"

    return judge


def judge_random(report: Report) -> str | None:
    if report.lost_total:
        return "promised none lost"
    even = report.sent / len(BACKENDS)
    distance = sum((report.answered.get(end, 0) - even) ** 2 / even for end in BACKENDS)
    if distance > CHI_SQUARE_MAX:
        return f"promised equal shares, and chi-square is {distance:.1f} (at most {CHI_SQUARE_MAX})"
    return None


def judge_article(report: Report) -> str | None:
    low, high = EXPECTED_LOSS
    if low <= report.lost_total / report.sent <= high:
        return None
    return f"expected between {low:.0%} and {high:.0%} lost"


def head_line() -> str:
    ends = "".join(f"{end.partition(':')[0]:>10}" for end in BACKENDS)
    return f"{'rules':<{WIDTH}}{'balancer':<14}{ends}{'lost':>8}"


def row_line(row: Row) -> str:
    counts = "".join(f"{row.report.answered.get(end, 0):>10}" for end in BACKENDS)
    lost = row.report.lost_total
    share = f"  {lost / row.report.sent:6.1%}" if lost else ""
    where = f"{row.balancer} {FLAVOURS[row.balancer]}"
    wrong = f"   WRONG: {row.problem}" if row.problem else ""
    return f"{row.title:<{WIDTH}}{where:<14}{counts}{lost:>8}{share}{wrong}"


def _connect(*, lab: Lab, balancer: str, count: int, timeout: float) -> Report:
    address = lab.topology.balancer(balancer).lan_address
    return open_connections(lab=lab, address=address, port=80, count=count, timeout=timeout)
