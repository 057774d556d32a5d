"""The live rows: the live revision's document, spread over tables for lists and searches."""

from typing import Any

from balancer.domain.codec import service_to_data
from balancer.domain.types import Document
from balancer.domain.types import Service as ServiceValue
from balancer.models import Backend, Cluster, Service


def write_live_rows(*, cluster: Cluster, before: Document, after: Document) -> None:
    """Turn the rows of `before` into those of `after`; untouched services keep their rows."""
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    Service.objects.filter(cluster=cluster, name__in=sorted(old.keys() - new.keys())).delete()
    for name, service in new.items():
        if old.get(name) != service:
            _write_service(cluster=cluster, service=service)


def _write_service(*, cluster: Cluster, service: ServiceValue) -> None:
    row, _ = Service.objects.update_or_create(
        cluster=cluster, name=service.name, defaults=_columns(service_to_data(service))
    )
    Backend.objects.filter(service=row).delete()
    Backend.objects.bulk_create(
        Backend(
            service=row,
            address=str(backend.address),
            port=backend.port,
            weight=backend.weight,
            state=backend.state,
            priority=backend.priority,
        )
        for backend in service.backends
    )


def _columns(data: dict[str, Any]) -> dict[str, Any]:
    columns = {key: value for key, value in data.items() if key not in {"name", "backends", "source_nat"}}
    nat = data["source_nat"]
    columns["critical"] = data.get("critical", False)
    return columns | {"source_nat_mode": nat["mode"], "source_nat_address": nat["address"]}
