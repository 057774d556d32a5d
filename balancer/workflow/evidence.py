"""The evidence file of a deployment: gathered and sealed in the transaction that ends it."""

import zlib
from typing import Any

from django.contrib.auth.models import User
from django.db.models import Q
from django.utils import timezone

from balancer.domain.chain import EVENT_FIELDS, Event, Head
from balancer.domain.evidence import (
    Data,
    Parts,
    build_evidence,
    describe_draft,
    event_to_data,
    hash_file,
    head_to_data,
)
from balancer.domain.lifecycle import REHEARSAL_JUDGED, DeploymentState
from balancer.models import (
    AuditEvent,
    Change,
    Deployment,
    Draft,
    Evidence,
    Job,
    LateReview,
    Rehearsal,
    Revision,
    Vote,
)
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.changes import rules_of
from balancer.workflow.effective import effective_of_job
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import render_node_rulesets
from balancer.workflow.traffic import service_value
from balancer.workflow.waivers import waiver_of


def seal_evidence(*, deployment: Deployment) -> Evidence:
    """Make the file of a deployment that has just ended, and put its SHA-256 into the audit chain.

    Runs in the transaction that ends it, after everything else that is recorded of the end.
    """
    text = evidence_of(deployment)
    sealed = Evidence.objects.create(
        deployment=deployment,
        packed=zlib.compress(text.encode(), level=1),
        sha256=hash_file(text),
        created_at=timezone.now(),
    )
    facts = {"sha256": sealed.sha256, "revision": deployment.revision.number}
    audit.record(actor=None, action=Action.EVIDENCE_SEALED, target=deployment, facts=facts)
    return sealed


def evidence_of(deployment: Deployment) -> str:
    """The text of the file, from the rows as they are now."""
    deployment = Deployment.objects.select_related(
        "cluster", "revision", "requested_by", "emergency", "change__author", "change__rollback_of"
    ).get(pk=deployment.pk)
    change, revision = deployment.change, deployment.revision
    jobs = list(deployment.jobs.select_related("node").order_by("node__name"))
    votes = _votes(change)
    parts = Parts(
        deployment=_deployment_data(deployment),
        change=_change_data(change),
        drafts=[_draft_data(draft) for draft in Draft.objects.filter(change=change).order_by("service_name")],
        policy=change.cluster.policy.to_data(),
        operation=change.cluster.operation.to_data(),
        votes=[_vote_data(vote) for vote in votes],
        reviews=_reviews(votes),
        rehearsals=_rehearsals(change),
        revision=_revision_data(revision),
        before=_before(deployment),
        jobs=[_job_data(job) for job in jobs],
        late_reviews=_late_reviews(deployment),
        events=[event_to_data(event) for event in _events(deployment, jobs=jobs)],
        head=head_to_data(_head()),
    )
    return build_evidence(parts)


def _waiver(deployment: Deployment) -> Data | None:
    """Why approvals were not asked for; the event that starts such a deployment says so as well."""
    kind = waiver_of(deployment)
    if kind is None:
        return None
    by, reason = deployment.requested_by, "The policy lets operators go back to the previous revision."
    if deployment.emergency is not None:
        by, reason = deployment.emergency.declared_by, deployment.emergency.reason
    return {"kind": kind, "by": _person(by), "reason": reason}


def _rehearsals(change: Change) -> list[Data]:
    """Those of what was applied that came to an end, in order."""
    rows = Rehearsal.objects.filter(change=change, digest=change.digest, state__in=REHEARSAL_JUDGED)
    return [
        {
            "node": row.node.name,
            "digest": row.digest,
            "state": str(row.state),
            "result": row.result,
            "error": row.error,
        }
        for row in rows.select_related("node").order_by("queued_at")
    ]


def _probes(job: Job) -> list[Data]:
    """The checks after the commit: name, passed (null: could not be asked), text."""
    return list(job.probes)


def _carried(job: Job) -> dict[str, str] | None:
    """Family -> text where the node was brought to something else than the texts of the revision: overrides,
    health or its own weights were laid over it, or rules of a family that it no longer has were taken out."""
    effective = effective_of_job(job)
    texts = render_node_rulesets(effective.document)
    receipt = job.receipt or {}
    laid_over = effective.overrides or effective.health_digest or effective.weights
    if not laid_over and set(receipt) <= set(job.revision.rulesets):
        return None
    return {family: texts[family] for family in sorted({*receipt, *job.revision.rulesets})}


def _late_reviews(deployment: Deployment) -> list[Data]:
    """Of an emergency: not signed yet, as the file is older than the signature; that is in the chain."""
    if deployment.emergency_id is None:
        return []
    review = LateReview.objects.get(kind=LateReview.Kind.EMERGENCY, subject_id=deployment.emergency_id)
    return [
        {
            "kind": str(review.kind),
            "opened_by": _person(review.opened_by),
            "opened_at": _moment(review.opened_at),
            "reason": review.reason,
            "signed_by": None if review.signed_by is None else _person(review.signed_by),
            "signed_at": _moment(review.signed_at),
            "comment": review.comment,
        }
    ]


def _deployment_data(deployment: Deployment) -> Data:
    return {
        "id": deployment.pk,
        "cluster": deployment.cluster.name,
        "state": str(deployment.state),
        "requested_by": _person(deployment.requested_by),
        "created_at": _moment(deployment.created_at),
        "finished_at": _moment(deployment.finished_at),
        "error": deployment.error,
        "waiver": _waiver(deployment),
    }


def _change_data(change: Change) -> Data:
    return {
        "id": change.pk,
        "title": change.title,
        "description": change.description,
        "kind": str(change.kind),
        "rollback_of": change.rollback_of.number if change.rollback_of else None,
        "rollback_services": change.rollback_services,
        "author": _person(change.author),
        "contributors": [_person(person) for person in change.contributors.order_by("pk")],
        "created_at": _moment(change.created_at),
        "submitted_at": _moment(change.submitted_at),
        "digest": change.digest,
    }


def _draft_data(draft: Draft) -> Data:
    return describe_draft(
        name=draft.service_name,
        action=str(draft.action),
        before=draft.before,
        after=draft.after,
        services=(service_value(draft.before), service_value(draft.after)),
        rules=(_rules(draft.before), _rules(draft.after)),
    )


def _rules(service: Data | None) -> str:
    """A deployment that failed because a service is not valid any more has evidence as well."""
    try:
        return rules_of(service)
    except Refused:
        return ""


def _votes(change: Change) -> list[Vote]:
    found = Vote.objects.filter(change=change).select_related("user", "review")
    return list(found.prefetch_related("user__groups").order_by("pk"))


def _vote_data(vote: Vote) -> Data:
    return {
        "by": _person(vote.user),
        "groups": sorted(group.name for group in vote.user.groups.all()),
        "verdict": str(vote.verdict),
        "at": _moment(vote.at),
        "digest": vote.digest,
        "reason": vote.reason,
        "review": vote.review.digest if vote.review else None,
    }


def _reviews(votes: list[Vote]) -> list[Data]:
    """Each page that a vote names, once."""
    kept = {vote.review.digest: vote.review.content for vote in votes if vote.review}
    return [{"digest": digest, "content": content} for digest, content in sorted(kept.items())]


def _revision_data(revision: Revision) -> Data:
    return {
        "number": revision.number,
        "digest": revision.digest,
        "document": revision.document,
        "rulesets": dict(revision.rulesets),
        "author_name": revision.author_name,
        "created_at": _moment(revision.created_at),
    }


def _before(deployment: Deployment) -> Data:
    """What was live when it started: the revision of the last deployment that succeeded, or the empty one."""
    earlier = Deployment.objects.filter(
        cluster=deployment.cluster, state=DeploymentState.SUCCEEDED, pk__lt=deployment.pk
    )
    last = earlier.select_related("revision").order_by("-pk").first()
    if last is not None:
        return {"number": last.revision.number, "digest": last.revision.digest}
    first = Revision.objects.get(cluster=deployment.cluster, number=0)
    return {"number": first.number, "digest": first.digest}


def _job_data(job: Job) -> Data:
    return {
        "id": str(job.pk),
        "node": job.node.name,
        "state": str(job.state),
        "attempts": job.attempts,
        "queued_at": _moment(job.queued_at),
        "claimed_at": _moment(job.claimed_at),
        "finished_at": _moment(job.finished_at),
        "steps": job.steps,
        "receipt": job.receipt,
        "probes": _probes(job),
        "error": job.error,
        "carried": _carried(job),
    }


def _events(deployment: Deployment, *, jobs: list[Job]) -> list[Event]:
    about = Q(object_type="change", object_id=str(deployment.change_id))
    about |= Q(object_type="revision", object_id=str(deployment.revision_id))
    about |= Q(object_type="deployment", object_id=str(deployment.pk))
    about |= Q(object_type="job", object_id__in=[str(job.pk) for job in jobs])
    rows = AuditEvent.objects.filter(about).order_by("number").values(*EVENT_FIELDS)
    return [Event(**row) for row in rows]


def _head() -> Head:
    """Of this transaction, which holds the lock of the chain."""
    number, digest = AuditEvent.objects.order_by("-number").values_list("number", "hash")[0]
    return Head(number, digest)


def _person(user: User) -> Data:
    return {"id": user.pk, "name": user.get_username()}


def _moment(at: Any) -> str | None:
    return None if at is None else str(at.isoformat())
