"""Which deployments have an evidence file."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Q, QuerySet

from balancer.models import Change, Evidence, Revision


@dataclass(frozen=True, slots=True)
class EvidenceView:
    deployment: int
    revision: int
    state: str
    """Of the deployment."""
    ended_at: datetime
    sha256: str


def evidence_about(*, about: Change | Revision) -> tuple[EvidenceView, ...]:
    """Of a change or a revision, the latest first; the files themselves are not loaded."""
    which = Q(deployment__change=about) if isinstance(about, Change) else Q(deployment__revision=about)
    rows: QuerySet[Evidence] = Evidence.objects.filter(which).order_by("-pk")
    fields = ("deployment_id", "deployment__revision__number", "deployment__state", "created_at", "sha256")
    return tuple(EvidenceView(*row) for row in rows.values_list(*fields))
