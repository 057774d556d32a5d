"""Back to an earlier revision: a change like any other, filled in from the old document."""

from collections.abc import Iterable

from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import ChangeDeed
from balancer.models import Change, Cluster, Deployment, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.changes import advance, lock_cluster, rollback_target
from balancer.workflow.deployments import start_deployment
from balancer.workflow.documents import live_services
from balancer.workflow.drafts import write_as_live, write_drafts
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import APPLY, ROLL_BACK, Actor, require
from balancer.workflow.revisions import is_outdated, live_revision
from balancer.workflow.submissions import hand_in
from balancer.workflow.waivers import previous_revision


@deed(Action.ROLLBACK_OPENED, target="revision")
def roll_back_to(*, actor: Actor, revision: Revision, services: Iterable[str] | None = None) -> Change:
    """A draft change of the kind rollback, filled in from the revision; it cannot be edited.

    Its candidate is the revision's document, byte for byte; with `services`, what is live with these services
    as they were then (gone, where the revision had none of that name). Of a live revision that another
    lbadmin compiled, it has all services as they are, so that their rules are made anew. It is submitted,
    approved and applied like any other and makes a new revision. Needs ROLL_BACK. Refused("nothing") where
    that is live already, "invalid" where the revision is not readable, or has and had no such service.
    """
    require(actor=actor, permission=ROLL_BACK)
    if actor is None:
        raise Refused("forbidden", "A rollback needs an author; the system proposes none.")
    return _open(actor=actor, revision=revision, services=None if services is None else sorted({*services}))


@deed(Action.ROLLED_BACK_AT_ONCE, target="cluster")
def roll_back_at_once(*, actor: Actor, cluster: Cluster) -> Deployment:
    """Apply what was live before the present revision, without an approval, where the policy allows that.

    Needs ROLL_BACK and APPLY. Refused: "policy" where it does not, "nothing" where nothing was live before,
    and all that `apply_change` refuses but the approval.
    """
    require(actor=actor, permission=ROLL_BACK)
    require(actor=actor, permission=APPLY)
    if actor is None:
        raise Refused("forbidden", "A rollback needs an author; the system proposes none.")
    cluster = lock_cluster(cluster)
    if not cluster.operation.rollback_at_once:
        raise Refused(
            "policy",
            f"The policy of {cluster} lets nobody roll back without an approval. Prepare the rollback on the"
            " page of the revision and have it approved.",
        )
    change = _open(actor=actor, revision=previous_revision(cluster), services=None)
    Change.objects.filter(pk=change.pk).update(at_once=True)
    change = hand_in(actor=actor, change=change)
    advance(change=change, deed=ChangeDeed.APPROVE)
    facts = {"digest": change.digest, "why": "The policy lets operators go back to the previous revision."}
    audit.record(actor=None, action=Action.CHANGE_APPROVED, target=change, facts=facts)
    deployment = start_deployment(actor=actor, change=change)
    facts = {
        "revision": deployment.revision.number,
        "back_to": change.rollback_of and change.rollback_of.number,
    }
    audit.record(actor=actor, action=Action.ROLLED_BACK_AT_ONCE, target=cluster, facts=facts)
    return deployment


def _open(*, actor: User, revision: Revision, services: list[str] | None) -> Change:
    base = live_revision(revision.cluster)
    live = live_services(revision.cluster)
    wanted = rollback_target(revision=revision, services=services, live=live)
    anew = services is None and revision.pk == base.pk and is_outdated(base)
    if not anew and all(after == live.get(name) for name, after in wanted.items()):
        what = f"{revision} is" if services is None else f"{', '.join(services)} of {revision} are"
        raise Refused("nothing", f"{what} what is live already.")
    now = timezone.now()
    change = Change.objects.create(
        cluster=revision.cluster,
        title=_title(revision=revision, services=services, anew=anew),
        kind=Change.Kind.ROLLBACK,
        rollback_of=revision,
        rollback_services=services,
        author=actor,
        base_revision=base,
        created_at=now,
        updated_at=now,
    )
    facts = {"revision": revision.number, "live": base.number, "services": services}
    audit.record(actor=actor, action=Action.ROLLBACK_OPENED, target=change, facts=facts)
    if anew:
        write_as_live(actor=actor, change=change, live=live)
    else:
        write_drafts(actor=actor, change=change, live=live, wanted=wanted)
    return change


def _title(*, revision: Revision, services: list[str] | None, anew: bool) -> str:
    if anew:
        return f"Compile revision {revision.number} anew"
    if services is None:
        return f"Roll back to revision {revision.number}"
    names = ", ".join(services) if len(services) <= 3 else f"{len(services)} services"
    return f"Roll {names} back to revision {revision.number}"[:200]
