"""What operators set beside the document: backend by backend, and what waits for a signature."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from balancer.domain.diff import DiffLine, diff_lines
from balancer.domain.overrides import (
    service_with_overrides,
    weight_range,
    why_without_effect,
    with_overrides,
)
from balancer.domain.types import Backend, Document, Service
from balancer.models import Change, Cluster, Emergency, LateReview, Override
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from balancer.workflow.documents import candidate_of, live_document, service_named
from balancer.workflow.effective import active_overrides, overrides_in_force, value_of
from balancer.workflow.late_reviews import open_late_reviews
from balancer.workflow.revisions import document_of
from balancer.workflow.traffic import parts_of, shares_alone, standby_of


@dataclass(frozen=True, slots=True)
class BackendNow:
    """A live backend as it was approved, and as the nodes have it with the overrides in force."""

    approved: Backend
    now: Backend
    share: Fraction
    """Of new connections, now."""
    standby: bool
    parts: int
    """Both as in `ShareRow`."""
    weights: tuple[int, int]
    """The lowest and the highest that an operator may set."""

    @property
    def overridden(self) -> bool:
        return self.approved != self.now


@dataclass(frozen=True, slots=True)
class OverrideView:
    """An override, and who has signed it."""

    override: Override
    review: LateReview
    without_effect: str
    """Why it changes nothing, in a sentence; empty where it does."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A service as operators see it; no backends where it is not live."""

    backends: tuple[BackendNow, ...]
    overrides: tuple[OverrideView, ...]


@dataclass(frozen=True, slots=True)
class LateReviewRow:
    """A late review and what it is about."""

    review: LateReview
    override: Override | None
    change: Change | None
    """Of an emergency."""

    @property
    def words(self) -> str:
        """What was done, to follow the name of who did it."""
        if self.override is not None:
            return self.override.done
        return f"applied {self.change} as an emergency"


def view_operation(*, cluster: Cluster, name: str) -> Operation:
    service = service_named(live_document(cluster), name)
    views = tuple(view for view in view_overrides(cluster=cluster) if view.override.service_name == name)
    if service is None:
        return Operation(backends=(), overrides=views)
    effective = service_with_overrides(service, overrides_in_force(cluster))
    shares, waiting, policy = shares_alone(effective), standby_of(effective), cluster.operation
    backends = tuple(
        BackendNow(
            approved=approved,
            now=now,
            share=shares[now.endpoint],
            standby=effective.enabled and now.endpoint in waiting,
            parts=parts_of(effective),
            weights=weight_range(approved=approved.weight, policy=policy),
        )
        for approved, now in zip(service.backends, effective.backends, strict=True)
    )
    return Operation(backends=backends, overrides=views)


def view_overrides(*, cluster: Cluster) -> tuple[OverrideView, ...]:
    """Those in force in a cluster."""
    rows = list(active_overrides(cluster))
    if not rows:
        return ()
    document, force = live_document(cluster), [value_of(row) for row in rows]
    reviews = _reviews_of(rows)
    return tuple(
        OverrideView(
            override=row,
            review=reviews[row.pk],
            without_effect=why_without_effect(document, force, value_of(row)) or "",
        )
        for row in rows
    )


def services_left_empty(*, change: Change) -> tuple[str, ...]:
    """Services that would have a usable backend by the change, and none with the overrides in force."""
    document = candidate_of(change).document
    if document is None:
        return ()
    effective = with_overrides(document, overrides_in_force(change.cluster))
    pairs = zip(document.services, effective.services, strict=True)
    return tuple(s.name for s, now in pairs if s.enabled and s.usable_backends and not now.usable_backends)


def list_late_reviews() -> tuple[LateReviewRow, ...]:
    """Those that wait for a signature, the oldest first."""
    return describe_late_reviews(open_late_reviews())


def describe_late_reviews(reviews: Iterable[LateReview]) -> tuple[LateReviewRow, ...]:
    found = list(reviews)
    overrides = Override.objects.select_related("set_by", "lifted_by", "cluster").in_bulk(
        [r.subject_id for r in found if r.kind == LateReview.Kind.OVERRIDE]
    )
    emergencies = Emergency.objects.select_related("change").in_bulk(
        [r.subject_id for r in found if r.kind == LateReview.Kind.EMERGENCY]
    )
    return tuple(
        LateReviewRow(r, overrides[r.subject_id], None)
        if r.kind == LateReview.Kind.OVERRIDE
        else LateReviewRow(r, None, emergencies[r.subject_id].change)
        for r in found
    )


def diff_override(row: Override) -> tuple[DiffLine, ...]:
    """What it did to the rules of its service, on its own over what was live when it was set."""
    service = service_named(document_of(row.revision), row.service_name)
    if service is None:
        return ()
    return diff_lines(_rules(service), _rules(service_with_overrides(service, [value_of(row)])))


def _rules(service: Service) -> str:
    return render_ruleset(compile_document(Document(services=(service,)), family=service.family))


def _reviews_of(rows: Iterable[Override]) -> dict[int, LateReview]:
    keys = [row.pk for row in rows]
    found = LateReview.objects.filter(kind=LateReview.Kind.OVERRIDE, subject_id__in=keys)
    return {review.subject_id: review for review in found.select_related("signed_by")}
