"""What the form of a service would bring, shown beside it while somebody types. Writes nothing."""

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from balancer.admin.service_form import ServiceEditor
from balancer.admin.shares import compare_shares
from balancer.admin.site import read_key
from balancer.domain.problem import Problem
from balancer.models import Change, Cluster
from balancer.workflow import queries
from balancer.workflow.permissions import DRAFT, may

_OWN_CHAINS = ("-A LB-S", "-A LB-H")
"""The choice itself, who of the clients is a backend, and what each backend gets."""
MISSING = "missing"
"""The code of a Problem about a field that has no default."""


def preview_service(request: HttpRequest, cluster_id: int) -> HttpResponse:
    """Shares, rules and problems of what the form holds."""
    cluster = Cluster.objects.filter(pk=cluster_id).first()
    if request.method != "POST" or cluster is None or not may(actor=request.user, permission=DRAFT):
        return HttpResponse("", status=405 if request.method != "POST" else 403)
    editor = ServiceEditor(data=request.POST)
    context: dict[str, Any] = {"editor": editor}
    if editor.is_well_formed():
        change = Change.objects.filter(pk=read_key(request.POST.get("change"))).first()
        preview = queries.preview_service(
            cluster=cluster,
            data=editor.to_data(),
            change=change,
            original_name=request.POST.get("original_name") or None,
        )
        context |= {
            "preview": preview,
            "problems": [
                (problem, editor.describe(problem)) for problem in preview.problems if problem.code != MISSING
            ],
            "shares": compare_shares(preview.shares),
            "rules": own_rules(preview),
            "missing": _missing_fields(preview.problems),
        }
    return TemplateResponse(request, "console/service_preview.html", context)


def own_rules(preview: queries.Preview) -> str:
    """The rules that choose the backend, without what every ruleset has."""
    return "\n".join(line for line in preview.ruleset.splitlines() if line.startswith(_OWN_CHAINS))


def _missing_fields(problems: Iterable[Problem]) -> list[str]:
    """What is still to be filled in, in words: somebody who is still typing has made no mistake."""
    found = [problem.path for problem in problems if problem.code == MISSING]
    return list(dict.fromkeys(_missing_field(path) for path in found))


def _missing_field(path: str) -> str:
    owner, _, field = path.rpartition(".")
    if owner == "source_nat":
        return "new source address"
    return f"{field} of a backend" if owner else field
