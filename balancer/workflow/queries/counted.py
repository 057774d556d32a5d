"""What stands around the plots of what was counted: applies, totals since first seen, what is missing."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from balancer.domain.counters import TimedPoint
from balancer.domain.lifecycle import JobState
from balancer.kernel.counter_table import Kind
from balancer.models import Cluster, CounterState, CounterTotal, Job, Node

MARKS_SHOWN = 60
SILENT_AFTER = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Mark:
    """An apply that ended well."""

    at: datetime
    revision: int
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class Total:
    """Since it was first seen."""

    name: str
    count: int
    packets: int
    bytes: int
    first_seen: datetime | None


def counted_endpoints(*, cluster: Cluster, name: str) -> tuple[str, ...]:
    """Every backend of the service of which anything was kept, whether or not it is live."""
    rows = CounterTotal.objects.filter(node__cluster=cluster, service_name=name, kind=Kind.BACKEND)
    return tuple(sorted(set(rows.values_list("name", flat=True))))


def find_marks(nodes: list[Node], *, since: datetime, until: datetime) -> tuple[Mark, ...]:
    jobs = Job.objects.filter(
        node__in=nodes, state=JobState.SUCCEEDED, finished_at__gt=since, finished_at__lte=until
    )
    jobs = jobs.exclude(reason=Job.Reason.DRILL).order_by("-finished_at")
    rows = jobs.values_list("finished_at", "revision__number", "node__name", "cause")[:MARKS_SHOWN]
    return tuple(
        Mark(at, number, name, f"Revision {number} on {name}{f': {cause}' if cause else ''}")
        for at, number, name, cause in reversed(rows)
    )


def find_totals(
    nodes: list[Node], *, name: str, kind: Kind, samples: Iterable[TimedPoint], only: str = ""
) -> tuple[Total, ...]:
    """With what is in `samples`, and not in the rows of totals yet."""
    found: dict[str, list[int]] = {}
    first: dict[str, datetime] = {}
    for row in CounterTotal.objects.filter(node__in=nodes, service_name=name, kind=kind):
        _add(found, row.name, (row.count, row.packets, row.bytes))
        first[row.name] = min(row.first_seen, first.get(row.name, row.first_seen))
    for sample in samples:
        counts = {reason: (count, 0, 0) for reason, count in sample.point.refused.items()}
        if kind is Kind.BACKEND:
            counts = {endpoint: one[:3] for endpoint, one in sample.point.backends.items()}
        for key, numbers in counts.items():
            _add(found, key, numbers)
            first.setdefault(key, sample.at)
    return tuple(
        Total(key, *numbers, first_seen=first.get(key))
        for key, numbers in sorted(found.items())
        if not only or key == only
    )


def _add(found: dict[str, list[int]], key: str, numbers: Iterable[int]) -> None:
    had = found.get(key, [0, 0, 0])
    found[key] = [one + more for one, more in zip(had, numbers, strict=True)]


def find_notes(nodes: list[Node], *, now: datetime) -> Iterable[str]:
    states = {state.node_id: state for state in CounterState.objects.filter(node__in=nodes)}
    for node in nodes:
        state = states.get(node.pk)
        if state is None or state.counted_at is None:
            yield f"Nothing has been counted on {node.name} yet: start python -m lbadmin.counters there."
        elif now - state.counted_at > SILENT_AFTER:
            yield (
                f"Nothing has been counted on {node.name} since"
                f" {state.counted_at.astimezone(UTC):%-d %b %Y, %H:%M:%S}: look at its counting process."
                " New connections are counted in the kernel meanwhile."
            )
        for note in (state.notes if state is not None else [])[:1]:
            if now - datetime.fromisoformat(note["at"]) < timedelta(hours=1):
                yield f"{node.name}, {datetime.fromisoformat(note['at']):%H:%M:%S}: {note['text']}"
