"""What a change would make of the live document."""

from dataclasses import dataclass
from typing import Any

from balancer.domain.codec import document_to_data, parse_document
from balancer.domain.problem import Problem
from balancer.domain.types import Document, Service
from balancer.models import Change, Cluster, Draft
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import document_of, live_revision

Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """The live document with a change's drafts laid over it; no document where that would be invalid."""

    document: Document | None
    problems: tuple[Problem, ...]
    """Errors and warnings; paths count the services of the candidate in order of name."""
    names: tuple[str, ...]
    """The services of the candidate in that order."""

    def name_at(self, path: str) -> str:
        """The service that a path is about; empty where it is about none."""
        index = path.partition(".")[0].removeprefix("services[").removesuffix("]")
        return self.names[int(index)] if index.isdigit() else ""

    def path_of(self, name: str) -> str:
        """The beginning of every path that is about the service."""
        return f"services[{self.names.index(name)}]" if name in self.names else ""


def live_document(cluster: Cluster) -> Document:
    return document_of(live_revision(cluster))


def live_services(cluster: Cluster) -> dict[str, Data]:
    """Name -> service as JSON data, of the live document."""
    data = document_to_data(live_document(cluster))
    return {service["name"]: service for service in data["services"]}


def candidate_of(change: Change) -> Candidate:
    return overlay(base=live_services(change.cluster), drafts=drafts_of(change))


def candidate_document(change: Change) -> Document:
    """The document that applying the change would bring; Refused("invalid") where it would not be valid."""
    candidate = candidate_of(change)
    if candidate.document is None:
        raise Refused("invalid", f"The configuration would not be valid: {candidate.problems[0]}")
    return candidate.document


def drafts_of(change: Change) -> dict[str, Data | None]:
    """Name -> proposed service, None where it is to go."""
    return dict(Draft.objects.filter(change=change).values_list("service_name", "after"))


def overlay(*, base: dict[str, Data], drafts: dict[str, Data | None]) -> Candidate:
    merged = base | {name: after for name, after in drafts.items() if after is not None}
    names = tuple(sorted(name for name in merged if drafts.get(name, merged[name]) is not None))
    document, problems = parse_document({"schema": 1, "services": [merged[name] for name in names]})
    return Candidate(document=document, problems=problems, names=names)


def service_named(document: Document, name: str) -> Service | None:
    return next((service for service in document.services if service.name == name), None)
