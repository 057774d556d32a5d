"""What the form of a service starts from, and what it would bring."""

from dataclasses import dataclass

from balancer.domain.codec import dump_document, parse_service
from balancer.domain.problem import Problem, errors
from balancer.domain.types import Document
from balancer.models import Change, Cluster, Draft
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_rules
from balancer.workflow.documents import Data, drafts_of, live_document, live_services, overlay
from balancer.workflow.traffic import ShareRow, share_rows


@dataclass(frozen=True, slots=True)
class ServiceForm:
    """A service as the form shows it."""

    data: Data
    """Hand it back with the form: `save_draft(seen=...)` notices when the service has changed meanwhile."""
    draft: Draft | None
    """The draft that the content comes from; None where it is what is live."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a service in the form would be, without saving it."""

    problems: tuple[Problem, ...]
    """Paths relative to the service; those about its neighbours included."""
    ruleset: str
    """The rules of this service on its own; empty where the input is invalid."""
    shares: tuple[ShareRow, ...]
    """Before: what is live."""


def service_form(*, cluster: Cluster, name: str, change: Change | None = None) -> ServiceForm | None:
    """The service with the change's draft laid over it; None where it is not there or is to be deleted."""
    drafts = drafts_of(change) if change else {}
    data = drafts.get(name, live_services(cluster).get(name))
    if data is None:
        return None
    draft = Draft.objects.filter(change=change, service_name=name).first() if change else None
    return ServiceForm(data=data, draft=draft)


def preview_service(
    *, cluster: Cluster, data: Data, change: Change | None = None, original_name: str | None = None
) -> Preview:
    """Check, compile and trace what is in the form, with the change's other drafts around it."""
    service, problems = parse_service(data)
    if service is None:
        return Preview(problems=problems, ruleset="", shares=())
    live = live_services(cluster)
    drafts = dict(drafts_of(change) if change else {}) | {service.name: data}
    if original_name not in (None, service.name):
        drafts[str(original_name)] = None
    after = overlay(base=live_document(cluster), drafts=drafts)
    around = tuple(p for p in errors(after.problems) if not p.path.startswith(after.path_of(service.name)))
    before = parse_service(live[original_name])[0] if original_name in live else None
    return Preview(
        problems=(*problems, *around),
        ruleset=render_rules(compile_document(Document(services=(service,)), family=service.family)),
        shares=share_rows(before=before, after=service),
    )


def candidate_text(*, cluster: Cluster, change: Change | None = None) -> str | None:
    """The whole document as JSON text, with the change laid over it; None where that would be invalid."""
    candidate = overlay(base=live_document(cluster), drafts=drafts_of(change) if change else {})
    return None if candidate.document is None else dump_document(candidate.document)
