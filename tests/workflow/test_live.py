"""The live rows hold all of a service: nothing is lost on the way there and back."""

from typing import Any

from hypothesis import HealthCheck, given, settings

from balancer.domain.codec import parse_document
from balancer.domain.types import Document
from balancer.models import Service
from balancer.workflow.live import value_of_row, write_live_rows
from tests.cast import Site
from tests.documents import backend_data, document, documents, service_data

EVERY_KEY = service_data(
    "every",
    description="All that a service can say",
    critical=True,
    address="203.0.113.1",
    port=443,
    port_end=445,
    additional_ports=["80", "8000-8099"],
    additional_addresses=["203.0.113.2", "203.0.113.9"],
    additional_interfaces=["bond0.100", "eth1"],
    from_node=True,
    scheduler="failover",
    persistence={"mode": "source", "timeout": 60, "prefix": 24},
    source_nat={"mode": "snat", "address": "198.51.100.1", "address_end": "198.51.100.4"},
    access={"drop_invalid": False},
    health={
        **{"kind": "https", "interval": 9, "timeout": 3, "rise": 4, "fall": 5, "port": 8443},
        **{"address": "10.0.0.9", "method": "OPTIONS", "host": "www.example.net:8443", "path": "/health"},
        **{"expect_status": "200-299,301", "expect_body": "fine", "certificate_warning_days": 30},
        "verify_certificate": True,
    },
    backends=[backend_data(), backend_data("10.0.0.4", port=1443, weight=3, priority=7, state="draining")],
)
OTHERS: dict[str, dict[str, Any]] = {
    "hairpin": {"port": 1, "source_nat": {"mode": "none", "hairpin": True}},
    "sctp": {"port": 2, "protocol": "sctp", "scheduler": "least-connections", "slow_start": 30},
    "dns": {
        **{"port": 5, "protocol": "udp"},
        "health": {"kind": "udp", "interval": 1, "timeout": 1, "send": "\\x00a\\r\\n", "expect": "\\\\"},
    },
    "watched": {"port": 6, "health": {"kind": "passive", "rise": 7}},
    "hash": {"port": 3, "scheduler": "source-hash", "address": None},
    "six": {
        "port": 4,
        "address": "2001:db8::1",
        "additional_addresses": ["2001:db8::2"],
        "source_nat": {"mode": "snat", "address": "2001:db8::10", "address_end": "2001:db8::11"},
        "persistence": {"mode": "source", "prefix": 64},
        "backends": [backend_data("2001:db8:1::3"), backend_data("2001:db8:1::4")],
    },
}


def written(site: Site, after: Document, *, before: Document | None = None) -> Document:
    write_live_rows(cluster=site.cluster, before=before or Document(), after=after)
    rows = Service.objects.filter(cluster=site.cluster).order_by("name").prefetch_related("backends")
    services = [value_of_row(row) for row in rows]
    assert None not in services
    return Document(services=tuple(service for service in services if service is not None))


def test_a_service_with_every_key_comes_back_from_its_row(site: Site) -> None:
    wanted = wide_document()

    assert written(site, wanted) == wanted


def test_a_row_keeps_nothing_of_what_the_service_said_before(site: Site) -> None:
    wide = wide_document()
    plain = document(*(service_data(s.name, port=number + 1) for number, s in enumerate(wide.services)))
    written(site, wide)

    assert written(site, plain, before=wide) == plain


def test_a_service_of_an_unknown_scheduler_is_unreadable_and_no_error(site: Site) -> None:
    written(site, document(service_data()))
    Service.objects.update(scheduler="by-phase-of-the-moon")

    assert value_of_row(Service.objects.get()) is None


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(wanted=documents(max_services=6))
def test_any_document_comes_back_from_its_rows(site: Site, wanted: Document) -> None:
    Service.objects.all().delete()

    assert written(site, wanted) == wanted


def wide_document() -> Document:
    found, problems = parse_document(
        {"services": [EVERY_KEY, *(service_data(name, **fields) for name, fields in OTHERS.items())]}
    )
    assert found is not None, problems
    return found
