"""Back to an earlier revision: a change like any other, filled in from the old document."""

from django.utils import timezone

from balancer.domain.codec import document_to_data
from balancer.models import Change, Revision
from balancer.workflow import audit
from balancer.workflow.audit import Action, deed
from balancer.workflow.documents import live_services
from balancer.workflow.drafts import write_drafts
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import ROLL_BACK, Actor, require
from balancer.workflow.revisions import document_of, live_revision


@deed(Action.ROLLBACK_OPENED, target="revision")
def roll_back_to(*, actor: Actor, revision: Revision) -> Change:
    """A draft change of the kind rollback whose candidate is the revision's document, byte for byte.

    It is submitted, approved and applied like any other and makes a new revision; it cannot be edited.
    Needs ROLL_BACK. Refused("nothing") where that is live already, "invalid" where it is not readable.
    """
    require(actor=actor, permission=ROLL_BACK)
    if actor is None:
        raise Refused("forbidden", "A rollback needs an author; the system proposes none.")
    base = live_revision(revision.cluster)
    if base.document == revision.document:
        raise Refused("nothing", f"{revision} is what is live already.")
    live = live_services(revision.cluster)
    target = {service["name"]: service for service in document_to_data(document_of(revision))["services"]}
    now = timezone.now()
    change = Change.objects.create(
        cluster=revision.cluster,
        title=f"Roll back to revision {revision.number}",
        kind=Change.Kind.ROLLBACK,
        rollback_of=revision,
        author=actor,
        base_revision=base,
        created_at=now,
        updated_at=now,
    )
    facts = {"revision": revision.number, "live": base.number}
    audit.record(actor=actor, action=Action.ROLLBACK_OPENED, target=change, facts=facts)
    wanted = {name: target.get(name) for name in sorted({*live, *target})}
    write_drafts(actor=actor, change=change, live=live, wanted=wanted)
    return change
