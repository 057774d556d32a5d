"""The difference that a change makes to the rules, for each table and for each node."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from balancer.domain.diff import DiffLine, diff_lines
from balancer.domain.lifecycle import ChangeState, DeploymentState
from balancer.domain.types import Family
from balancer.models import Change, Deployment, Node, Revision
from balancer.workflow.documents import Candidate
from balancer.workflow.revisions import live_revision, render_rulesets

Rulesets = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TableDiff:
    name: str
    """`filter`, or `filter (ipv6)`."""
    lines: tuple[DiffLine, ...]
    added: int
    removed: int


@dataclass(frozen=True, slots=True)
class RulesetDiff:
    """What the rules of some nodes, all in the same case, would become."""

    nodes: tuple[str, ...]
    base: str
    """What it is compared with, in words."""
    tables: tuple[TableDiff, ...]
    """Those that differ; empty where the rules stay as they are."""


def diff_change(
    *, change: Change, candidate: Candidate | None, deployment: Deployment | None
) -> tuple[RulesetDiff, ...] | None:
    """While the change is open: what each node carries against the candidate. Once it is applied: what it
    found against what it made. None where the candidate is invalid, or the change was given up."""
    nodes = list(Node.objects.filter(cluster=change.cluster, enabled=True).select_related("carried_revision"))
    if candidate is not None:
        if candidate.document is None:
            return None
        return _diff_nodes(
            nodes, live=live_revision(change.cluster), after=render_rulesets(candidate.document)
        )
    if change.state == ChangeState.APPLIED and deployment is not None:
        before = _revision_before(deployment)
        names = tuple(sorted(deployment.jobs.values_list("node__name", flat=True)))
        tables = diff_tables(before.rulesets, deployment.revision.rulesets)
        return (RulesetDiff(nodes=names, base=f"revision {before.number}", tables=tables),)
    return None


def diff_tables(before: Rulesets, after: Rulesets) -> tuple[TableDiff, ...]:
    old, new = _split(before), _split(after)
    found = []
    for name in sorted({*old, *new}):
        lines = diff_lines(old.get(name, ""), new.get(name, ""))
        if lines:
            kinds = [line.kind for line in lines]
            found.append(TableDiff(name, lines, kinds.count("added"), kinds.count("removed")))
    return tuple(found)


def _diff_nodes(nodes: list[Node], *, live: Revision, after: Rulesets) -> tuple[RulesetDiff, ...]:
    """One difference for all nodes that carry the same; those that are behind have their own."""
    cases: dict[int | None, list[Node]] = defaultdict(list)
    for node in nodes:
        carried = node.carried_revision_id
        cases[live.pk if carried is None and live.number == 0 else carried].append(node)
    if not nodes:
        cases[live.pk] = []
    found = []
    for carried, members in cases.items():
        base = live if carried in (live.pk, None) else members[0].carried_revision
        assert base is not None
        words = f"revision {base.number}"
        if carried is None:
            words += ", as what they carry is not known"
        elif base.pk != live.pk:
            words += f", which they still carry; live is revision {live.number}"
        names = tuple(sorted(node.name for node in members))
        found.append(RulesetDiff(nodes=names, base=words, tables=diff_tables(base.rulesets, after)))
    return tuple(sorted(found, key=lambda diff: diff.nodes))


def _split(rulesets: Rulesets) -> dict[str, str]:
    """Table -> its lines, of iptables-restore input."""
    tables: dict[str, list[str]] = {}
    for family, text in sorted(rulesets.items()):
        name = ""
        for line in text.splitlines():
            if line.startswith("*"):
                name = line[1:] if family == Family.IPV4 else f"{line[1:]} ({family})"
            tables.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in tables.items() if name}


def _revision_before(deployment: Deployment) -> Revision:
    """What was live when a deployment began; a cluster's first found the empty revision 0."""
    earlier = Deployment.objects.filter(
        cluster=deployment.cluster_id, state=DeploymentState.SUCCEEDED, pk__lt=deployment.pk
    )
    latest = earlier.select_related("revision").order_by("-pk").first()
    if latest is not None:
        return latest.revision
    return Revision.objects.get(cluster=deployment.cluster_id, number=0)
