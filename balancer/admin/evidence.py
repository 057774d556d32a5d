"""Evidence files: a list of them on a page, and the file to download."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from balancer.admin import chips
from balancer.models import Change, Evidence, Revision
from balancer.workflow import queries

PERMISSION = "balancer.view_evidence"


def evidence_rows(
    request: HttpRequest, about: Change | Revision
) -> list[tuple[queries.EvidenceView, SafeString]]:
    """With a chip for how the deployment ended; none for somebody who may not see them."""
    if not _may_see(request):
        return []
    return [(view, chips.work_chip(view.state)) for view in queries.evidence_about(about=about)]


def send_evidence(request: HttpRequest, *, change: Change, deployment_id: int) -> HttpResponse | None:
    """The file as a download; None where there is none that this person may see."""
    found = Evidence.objects.select_related("deployment__revision__cluster").filter(
        deployment_id=deployment_id, deployment__change=change
    )
    evidence = found.first() if _may_see(request) else None
    if evidence is None:
        return None
    name = f"{_file_name(evidence.deployment)}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(evidence.text, content_type="application/json", headers=headers)


def _file_name(deployment: Any) -> str:
    # A cluster's name is made of letters, digits and .-_ alone (NAME_VALIDATOR).
    return f"evidence-{deployment.revision.cluster.name}-{deployment.revision.number}-{deployment.pk}"


def _may_see(request: HttpRequest) -> bool:
    return bool(request.user.has_perm(PERMISSION))  # type: ignore[union-attr]
