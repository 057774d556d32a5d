"""What an edit of several services would do, for a table, and the proof that somebody has seen it."""

import json
from dataclasses import dataclass

from django.utils.safestring import SafeString

from balancer.admin import chips
from balancer.admin.field_words import FieldRow, describe_fields
from balancer.admin.places import describe_place
from balancer.domain.codec import digest_text
from balancer.domain.diff import diff_services
from balancer.domain.problem import Problem, errors
from balancer.domain.types import Service
from balancer.models import Draft
from balancer.workflow.bulk import Planned
from balancer.workflow.traffic import service_value

SHOWN_PROBLEMS = 20
_SERVICE = "services["


@dataclass(frozen=True, slots=True)
class PlanRow:
    name: str
    chip: SafeString
    summary: str
    """Where it listens, of one that comes or goes; empty where `fields` say what differs."""
    fields: tuple[FieldRow, ...]


@dataclass(frozen=True, slots=True)
class ProblemRow:
    where: str
    """The service and the field; empty for the whole."""
    message: str


@dataclass(frozen=True, slots=True)
class PlanWords:
    rows: tuple[PlanRow, ...]
    counts: tuple[tuple[str, int], ...]
    """`("modified", 3)` and so on, those that are not zero."""
    problems: tuple[ProblemRow, ...]
    """The first of them."""
    more_problems: int
    possible: bool
    token: str


def describe_plan(plan: Planned) -> PlanWords:
    found = errors(plan.problems)
    rows = () if found else tuple(_row(plan, name) for name in plan.wanted)
    return PlanWords(
        rows=rows,
        counts=_counts(plan),
        problems=tuple(_problem(one, by_name=bool(plan.wanted)) for one in found[:SHOWN_PROBLEMS]),
        more_problems=max(0, len(found) - SHOWN_PROBLEMS),
        possible=plan.possible,
        token=token_of(plan),
    )


def token_of(plan: Planned) -> str:
    """Sent back with the form: what is saved is what was shown, or it is shown again."""
    change = None if plan.change is None else plan.change.pk
    return digest_text(json.dumps([change, dict(plan.before), dict(plan.wanted)], sort_keys=True))


def _problem(problem: Problem, *, by_name: bool) -> ProblemRow:
    """`services[web].backends[0].weight` -> "web, backends[0].weight"."""
    inside = problem.path.startswith(_SERVICE)
    name, _, rest = problem.path.removeprefix(_SERVICE).partition("]") if inside else ("", "", problem.path)
    if inside and not by_name:
        name = f"service number {int(name) + 1}"
    where = ", ".join(part for part in (name, rest.removeprefix(".")) if part)
    return ProblemRow(where=where, message=problem.message)


def _row(plan: Planned, name: str) -> PlanRow:
    before, after = service_value(plan.before[name]), service_value(plan.wanted[name])
    there = after or before
    assert there is not None
    if before is None or after is None:
        action = Draft.Action.CREATE if before is None else Draft.Action.DELETE
        return PlanRow(name, chips.draft_chip(action), _summary(there), ())
    fields = describe_fields(diff_services(before, after))
    return PlanRow(name, chips.draft_chip(Draft.Action.MODIFY), "", fields)


def _summary(service: Service) -> str:
    count = len(service.backends)
    place = describe_place(
        interfaces=service.interfaces,
        addresses=[str(address) for address in service.addresses],
        ports=[str(ports) for ports in service.port_ranges],
        protocol=str(service.protocol),
    )
    return f"{place}, {count} backend{'' if count == 1 else 's'}"


def _counts(plan: Planned) -> tuple[tuple[str, int], ...]:
    created = sum(before is None for before in plan.before.values())
    deleted = sum(after is None for after in plan.wanted.values())
    counts = {
        "created": created,
        "modified": len(plan.wanted) - created - deleted,
        "deleted": deleted,
        "unchanged": plan.unchanged,
    }
    return tuple((word, number) for word, number in counts.items() if number)
