"""The live rows: the live revision's document, spread over tables for lists and searches."""

from typing import Any

from balancer.domain.codec import parse_service, spell_out_service
from balancer.domain.types import Backend as BackendValue
from balancer.domain.types import Document, SourceNat, keys_of
from balancer.domain.types import Service as ServiceValue
from balancer.models import Backend, Cluster, Service

_LISTS = ("additional_ports", "additional_addresses", "additional_interfaces")
_PLAIN = tuple(key for key in keys_of(ServiceValue) if key not in {"source_nat", "backends", *_LISTS})
_SOURCE_NAT = keys_of(SourceNat)
_BACKEND = keys_of(BackendValue)


def write_live_rows(*, cluster: Cluster, before: Document, after: Document) -> None:
    """Turn the rows of `before` into those of `after`; untouched services keep their rows."""
    old = {service.name: service for service in before.services}
    new = {service.name: service for service in after.services}
    Service.objects.filter(cluster=cluster, name__in=sorted(old.keys() - new.keys())).delete()
    for name, service in new.items():
        if old.get(name) != service:
            _write_service(cluster=cluster, service=service)


def value_of_row(row: Service) -> ServiceValue | None:
    """The service that a live row stands for; None where this version cannot read it."""
    data: dict[str, Any] = {name: getattr(row, name) for name in _PLAIN}
    data |= {name: getattr(row, name).split() for name in _LISTS}
    data["source_nat"] = {key: getattr(row, f"source_nat_{key}") for key in _SOURCE_NAT}
    data["backends"] = [{key: getattr(b, key) for key in _BACKEND} for b in row.backends.all()]
    return parse_service(data)[0]


def _write_service(*, cluster: Cluster, service: ServiceValue) -> None:
    row, _ = Service.objects.update_or_create(
        cluster=cluster, name=service.name, defaults=_columns(spell_out_service(service))
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
    """Every column, so that none keeps what the service had before."""
    columns = {name: data[name] for name in _PLAIN if name != "name"}
    columns |= {name: " ".join(data[name]) for name in _LISTS}
    return columns | {f"source_nat_{key}": data["source_nat"][key] for key in _SOURCE_NAT}
