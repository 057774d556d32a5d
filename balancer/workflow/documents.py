"""What a change would make of the live document."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from balancer.domain.codec import parse_service
from balancer.domain.problem import Problem, errors
from balancer.domain.types import Document, Service
from balancer.domain.validation import validate_parsed
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
    """Name -> service as JSON data, of the live document: straight from its text, which is canonical."""
    data = json.loads(live_revision(cluster).document)
    return {service["name"]: service for service in data["services"]}


def candidate_of(change: Change) -> Candidate:
    return overlay(base=live_document(change.cluster), drafts=drafts_of(change))


def candidate_document(change: Change) -> Document:
    """The document that applying the change would bring; Refused("invalid") where it would not be valid."""
    candidate = candidate_of(change)
    if candidate.document is None:
        raise Refused("invalid", f"The configuration would not be valid: {candidate.problems[0]}")
    return candidate.document


def drafts_of(change: Change) -> dict[str, Data | None]:
    """Name -> proposed service, None where it is to go."""
    return dict(Draft.objects.filter(change=change).values_list("service_name", "after"))


def overlay(*, base: Document, drafts: Mapping[str, Data | None]) -> Candidate:
    """Only the drafts are read; what is live was read and found good before it became so."""
    services: dict[str, Service | None] = {service.name: service for service in base.services}
    problems: list[Problem] = []
    for name, after in drafts.items():
        services.pop(name, None)
        if after is not None:
            services[name] = None
    names = tuple(sorted(services))
    paths = {name: f"services[{index}]" for index, name in enumerate(names)}
    for name, service in services.items():
        if service is None:
            services[name], found = parse_service(drafts[name], path=paths[name])
            # Those of a service that could be read come again with its neighbours'.
            problems += found if services[name] is None else ()
    parsed = {paths[name]: services[name] for name in names}
    problems += validate_parsed({path: service for path, service in parsed.items() if service is not None})
    if errors(tuple(problems)):
        return Candidate(document=None, problems=tuple(problems), names=names)
    document = Document(services=tuple(service for service in parsed.values() if service is not None))
    return Candidate(document=document, problems=tuple(problems), names=names)


def service_named(document: Document, name: str) -> Service | None:
    return next((service for service in document.services if service.name == name), None)
