"""The keys of a document: how the value of each is read, which have to be there, and which came later."""

from collections.abc import Mapping
from typing import Any

from balancer.domain import address_scalars, health_scalars, scalars
from balancer.domain.limits import MAX_NEW_BURST, MAX_NEW_PER_SECOND
from balancer.domain.scalars import Scalar, optional
from balancer.domain.types import (
    Access,
    AllDown,
    Backend,
    BackendState,
    Health,
    HealthKind,
    HttpMethod,
    Persistence,
    PersistenceMode,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    SourceNatMode,
)

BACKEND_FIELDS: dict[str, Scalar] = {
    "address": address_scalars.backend_address,
    "port": scalars.port,
    "weight": scalars.whole_number(1, 256),
    "state": scalars.choice(BackendState),
    "priority": scalars.whole_number(0, 255),
}
SECTION_FIELDS: dict[str, tuple[type[Any], dict[str, Scalar]]] = {
    "persistence": (
        Persistence,
        {
            "mode": scalars.choice(PersistenceMode),
            "timeout": scalars.whole_number(1, 604_800),
            "prefix": optional(scalars.whole_number(1, 128)),
        },
    ),
    "source_nat": (
        SourceNat,
        {
            "mode": scalars.choice(SourceNatMode),
            "address": optional(address_scalars.own_address),
            "address_end": optional(address_scalars.own_address),
            "hairpin": scalars.boolean,
        },
    ),
    "access": (
        Access,
        {
            "allow": address_scalars.networks,
            "deny": address_scalars.networks,
            "new_per_second_per_source": optional(scalars.whole_number(1, MAX_NEW_PER_SECOND)),
            "new_burst": optional(scalars.whole_number(1, MAX_NEW_BURST)),
            "connections_per_source": optional(scalars.whole_number(1, 1_000_000)),
            "connections_per_backend": optional(scalars.whole_number(1, 1_000_000)),
            "drop_invalid": scalars.boolean,
            "syn_proxy": scalars.boolean,
            "log_refused": scalars.boolean,
        },
    ),
    "health": (
        Health,
        {
            "kind": scalars.choice(HealthKind),
            "interval": scalars.whole_number(1, 3600),
            "timeout": scalars.whole_number(1, 3600),
            "rise": scalars.whole_number(1, 100),
            "fall": scalars.whole_number(1, 100),
            "port": optional(scalars.port),
            "path": health_scalars.url_path,
            "expect_status": health_scalars.status_ranges,
            "address": optional(address_scalars.checked_address),
            "method": scalars.choice(HttpMethod),
            "host": health_scalars.host_header,
            "expect_body": health_scalars.body_text,
            "certificate_warning_days": scalars.whole_number(0, 365),
            "verify_certificate": scalars.boolean,
            "send": health_scalars.payload,
            "expect": health_scalars.payload,
        },
    ),
}
SERVICE_FIELDS: dict[str, Scalar] = {
    "name": scalars.service_name,
    "description": scalars.description,
    "enabled": scalars.boolean,
    "critical": scalars.boolean,
    "interface": scalars.interface,
    "address": optional(address_scalars.service_address),
    "protocol": scalars.choice(Protocol),
    "port": scalars.port,
    "port_end": optional(scalars.port),
    "additional_ports": scalars.ports,
    "additional_addresses": address_scalars.own_addresses,
    "additional_interfaces": scalars.interfaces,
    "from_node": scalars.boolean,
    "scheduler": scalars.choice(Scheduler),
    "slow_start": scalars.whole_number(0, 3600),
    "all_down": scalars.choice(AllDown),
    "all_down_service": optional(scalars.service_name),
    "healthy_min": scalars.whole_number(0, 100),
}
LATER: Mapping[str, object] = {
    "critical": False,
    "additional_ports": [],
    "additional_addresses": [],
    "additional_interfaces": [],
    "from_node": False,
    "slow_start": 0,
    "all_down_service": None,
    "healthy_min": 0,
    "persistence.prefix": None,
    "source_nat.address_end": None,
    "source_nat.hairpin": False,
    "access.new_burst": None,
    "access.connections_per_backend": None,
    "access.log_refused": False,
    "access.syn_proxy": False,
    "health.address": None,
    "health.method": "GET",
    "health.host": "",
    "health.expect_body": "",
    "health.certificate_warning_days": 14,
    "health.verify_certificate": False,
    "health.send": "",
    "health.expect": "",
}
"""Keys that came after the first documents, with their defaults. They are written only where they differ, so
that every older document keeps its bytes and its digest (ADR 0010)."""
REQUIRED = {Service: ("name", "interface", "protocol", "port"), Backend: ("address",)}
