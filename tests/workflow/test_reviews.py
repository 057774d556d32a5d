"""What a reviewer is shown is what the rules do, and it is kept with the approval for ever."""

import hashlib
import json
from fractions import Fraction

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, assume, given, settings

from balancer.domain.types import Document
from balancer.models import AuditEvent, Change, Review, Vote
from balancer.ruleset.schedulers import promised_shares
from balancer.ruleset.trace import trace_service
from balancer.workflow.approvals import approve_change, reject_change
from balancer.workflow.documents import candidate_document, live_document, service_named
from balancer.workflow.policies import update_policy
from balancer.workflow.queries import view_change
from balancer.workflow.reviews import Shown
from balancer.workflow.submissions import submit_change, withdraw_change
from tests.cast import Site
from tests.documents import Data, service_data, services_data
from tests.workflow.deeds import approve, edit, submitted_by

Shares = dict[str, Fraction]
SHOWN = Shown(
    warnings=("Port 22 is where people log in.",),
    stakes=({"node": "lb1", "service": "web", "backend": "10.0.0.3:80", "flows": 12},),
    read_at="2026-11-24T12:00:00+00:00",
)


def traced(document: Document, name: str) -> Shares:
    """The shares of a service among all others, by the tracer; nothing where there is no such service."""
    service = service_named(document, name)
    if service is None:
        return {}
    found = trace_service(document, service).shares if service.enabled else {}
    return {backend.endpoint: found.get(backend.endpoint, Fraction(0)) for backend in service.backends}


def promised(document: Document, name: str) -> Shares:
    """The same from the weights alone."""
    service = service_named(document, name)
    if service is None:
        return {}
    shares = promised_shares(service) if service.enabled and service.usable_backends else {}
    return {backend.endpoint: shares.get(backend.endpoint, Fraction(0)) for backend in service.backends}


def kept_shares(review: Review, name: str, side: str) -> Shares:
    (service,) = (one for one in review.content["services"] if one["name"] == name)
    return {row["backend"]: Fraction(row[side]) for row in service["traffic"] if row[side] is not None}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=services_data("web", 80), after=services_data("web", 80), new=services_data("new", 8443))
def test_the_traffic_table_equals_the_tracers_shares_for_every_touched_service_and_is_kept(
    site: Site, before: Data, after: Data, new: Data
) -> None:
    assume(before != after)
    rollback = transaction.savepoint()
    try:
        site.deploy(before, service_data("mail", port=25))
        compare_shares(site, site.change(after, new))
    finally:
        transaction.savepoint_rollback(rollback)
        site.cluster.refresh_from_db()


def compare_shares(site: Site, change: Change) -> None:
    assume(change.drafts.filter(service_name="web").exists())
    review = approve(site.approver, submit_change(actor=site.author, change=change)).votes.get().review
    page = {draft.service_name: draft.shares for draft in view_change(change=change, user=site.author).drafts}
    assert set(page) == {"web", "new"}
    for name, rows in page.items():
        for side in ("before", "after"):
            document = live_document(site.cluster) if side == "before" else candidate_document(change)
            shown = {row.endpoint: getattr(row, side) for row in rows if getattr(row, side) is not None}
            expected = traced(document, name)
            assert shown == expected == kept_shares(review, name, side)
            assert_near(expected, promised(document, name))


def assert_near(found: Shares, expected: Shares) -> None:
    """`random` is rounded to 1/2^31 by the kernel at each rule."""
    assert set(found) == set(expected)
    assert all(abs(found[end] - expected[end]) < Fraction(1, 2**24) for end in found)


def test_a_review_keeps_fields_rules_policy_and_what_the_page_said_beside_them(site: Site) -> None:
    site.deploy(service_data("web"))
    change = submitted_by(site.author, site, scheduler="random")

    approve_change(
        actor=site.approver,
        change=change,
        digest=change.digest,
        password_at=timezone.now(),
        shown=SHOWN,
    )

    content = Review.objects.get(votes__user=site.approver, change=change).content
    (service,) = content["services"]
    assert service["fields"] == [{"path": "scheduler", "before": "round-robin", "after": "random"}]
    assert "--mode random" in service["rules"]
    assert content["policy"]["approvals"] == 1
    assert (content["digest"], content["approvals_required"]) == (change.digest, 1)
    assert (content["warnings"], content["stakes"], content["read_at"]) == (
        list(SHOWN.warnings),
        list(SHOWN.stakes),
        SHOWN.read_at,
    )


def test_the_event_of_an_approval_names_what_was_seen_by_a_digest_that_is_right(site: Site) -> None:
    change = site.approved(service_data("web"))

    event = AuditEvent.objects.get(action="change.approved")
    review = Review.objects.get(digest=event.facts["review"])
    assert review == change.votes.get().review
    text = json.dumps(review.content, sort_keys=True)
    assert review.digest == hashlib.sha256(text.encode()).hexdigest()
    assert event.facts["digest"] == change.digest == review.content["digest"]


def test_who_says_no_has_seen_something_too(site: Site) -> None:
    change = submitted_by(site.author, site)
    reject_change(actor=site.approver, change=change, digest=change.digest, reason="Wrong port")

    event = AuditEvent.objects.get(action="change.rejected")
    assert Review.objects.get(digest=event.facts["review"]).change == change


def test_what_was_seen_stays_when_the_vote_goes(site: Site) -> None:
    change = site.approved(service_data("web"))
    seen = change.votes.get().review

    withdraw_change(actor=site.author, change=change)

    assert not Vote.objects.exists()
    assert Review.objects.get() == seen


def test_what_was_seen_before_an_edit_differs_from_what_is_seen_after_it(site: Site) -> None:
    change = withdraw_change(actor=site.author, change=site.approved(service_data("web")))
    edit(site.author, site, change, port=81)
    approve(site.approver, submit_change(actor=site.author, change=change))

    ports = [r.content["services"][0]["after"]["port"] for r in Review.objects.order_by("pk")]
    assert ports == [80, 81]


def test_two_reviewers_of_the_same_page_share_one_review_and_other_changes_have_their_own(
    site: Site, superuser: User
) -> None:
    update_policy(actor=None, cluster=site.cluster, approvals=2, critical_approvals=2)
    first, second = (submitted_by(site.author, site) for _ in range(2))
    for person, change in ((site.approver, first), (superuser, first), (site.approver, second)):
        approve_change(
            actor=person, change=change, digest=change.digest, password_at=timezone.now(), shown=SHOWN
        )

    assert Review.objects.count() == 2
    assert [vote.review.change for vote in Vote.objects.order_by("pk")] == [first, first, second]


@pytest.mark.parametrize(
    "deed",
    [
        lambda review: Review.objects.filter(pk=review.pk).update(content={}),
        lambda review: Review.objects.filter(pk=review.pk).delete(),
        lambda review: Review.objects.bulk_update([review], ["digest"]),
        lambda review: _sql("UPDATE balancer_review SET content = '{}'"),
        lambda review: _sql("DELETE FROM balancer_review"),
    ],
    ids=["queryset update", "queryset delete", "bulk update", "sql update", "sql delete"],
)
def test_neither_the_orm_nor_sql_changes_what_was_seen(site: Site, deed: object) -> None:
    change = site.approved(service_data("web"))
    review = change.votes.get().review
    change.votes.all().delete()  # or the foreign key would be what refuses
    before = dict(review.content)
    review.digest = "0" * 64

    with pytest.raises(DatabaseError), transaction.atomic():
        deed(review)  # type: ignore[operator]

    assert Review.objects.get().content == before


def _sql(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def test_a_change_that_was_reviewed_cannot_be_deleted_with_what_was_seen(site: Site) -> None:
    change = site.approved(service_data("web"))

    with pytest.raises(DatabaseError), transaction.atomic():
        Change.objects.get(pk=change.pk).delete()

    assert Review.objects.exists()
