"""The ways of balancing in the form of a service: all of them go in and come out, and mistakes are told at
their field with what was typed kept."""

import json
from dataclasses import replace
from typing import Any

import pytest
from django.urls import reverse

from balancer.admin.choices import PERSISTENCE_HELP, SCHEDULER_HELP, SCHEDULERS
from balancer.admin.places import read_ports
from balancer.domain.codec import parse_service
from balancer.domain.types import Scheduler
from balancer.models import AuditEvent, Change, Draft, Service
from balancer.workflow.live import value_of_row
from tests.admin.conftest import Login, messages_of
from tests.admin.forms import add_backends, form_of, new_service
from tests.cast import Site
from tests.documents import document_data, service_data
from tests.workflow.test_live import EVERY_KEY, OTHERS

ADD = "/balancer/service/add/"
ONE_VOTE = EVERY_KEY | {"critical": False}
LAST = "source_nat_address_end"


@pytest.mark.parametrize("name", ["every", *OTHERS])
def test_a_service_saved_as_the_form_shows_it_is_the_same_service(
    site: Site, login: Login, name: str
) -> None:
    site.deploy(ONE_VOTE if name == "every" else service_data(name, **OTHERS[name]))
    address = reverse("admin:balancer_service_change", args=[Service.objects.get().pk])
    client = login(site.author)

    response = client.post(address, form_of(client.get(address)), follow=True)

    assert "nothing to propose" in messages_of(response)


def test_all_that_can_be_typed_becomes_keys_of_the_document(site: Site, login: Login) -> None:
    fields = new_service(
        interface="eth0, eth2,eth1",
        address="203.0.113.1, 203.0.113.9",
        port="8443 - 8450, 80, 9000-9010",
        protocol="sctp",
        from_node="on",
        scheduler="failover",
        persistence="source",
        persistence_timeout="60",
        persistence_prefix="/24",
        source_nat="snat",
        source_nat_address="198.51.100.1",
        source_nat_address_end="198.51.100.4",
        health="https",
        health_interval="9",
        health_timeout="3",
        health_rise="4",
        health_fall="5",
        health_port="8443",
        health_address="2001:db8::9",
        health_method="OPTIONS",
        health_host="www.example.net",
        health_path="/health",
        health_expect_status="200-299,301",
        health_expect_body="all is well",
        health_certificate_warning_days="0",
        health_verify_certificate="on",
        backends__0__priority="5",
    )

    login(site.author).post(ADD, fields)

    after = Draft.objects.get().after
    expected, problems = parse_service(
        {
            "name": "mail",
            "interface": "eth0",
            "additional_interfaces": ["eth1", "eth2"],
            "address": "203.0.113.1",
            "additional_addresses": ["203.0.113.9"],
            "protocol": "sctp",
            "port": 8443,
            "port_end": 8450,
            "additional_ports": ["80", "9000-9010"],
            "from_node": True,
            "scheduler": "failover",
            "persistence": {"mode": "source", "timeout": 60, "prefix": 24},
            "source_nat": {"mode": "snat", "address": "198.51.100.1", "address_end": "198.51.100.4"},
            "health": {
                **{"kind": "https", "interval": 9, "timeout": 3, "rise": 4, "fall": 5, "port": 8443},
                **{"address": "2001:db8::9", "method": "OPTIONS", "host": "www.example.net"},
                **{"path": "/health", "expect_status": "200-299,301", "expect_body": "all is well"},
                **{"certificate_warning_days": 0, "verify_certificate": True},
            },
            "backends": [{"address": "10.0.0.3", "priority": 5}],
        }
    )
    assert expected is not None, problems
    assert parse_service(after)[0] == expected


def test_what_the_browser_leaves_out_takes_its_default(site: Site, login: Login) -> None:
    """Controls that do not apply are hidden and not sent."""
    health = {name for name in new_service() if name.startswith("health_")}
    hidden = health | {"slow_start", "persistence_timeout", "persistence_prefix", "source_nat_address", LAST}
    sent = {name: value for name, value in new_service().items() if name not in hidden}

    login(site.author).post(ADD, sent)

    after, _ = parse_service(Draft.objects.get().after)
    assert after is not None
    assert (after.slow_start, after.persistence.timeout, after.source_nat.address) == (0, 300, None)


SNAT = {"source_nat": "snat", "source_nat_address": "198.51.100.1"}
SOURCE = {"persistence": "source"}
HTTP = {"health": "http"}
TICKS = {"hairpin", "health_verify_certificate"}
BAD: list[tuple[str, dict[str, str]]] = [
    ("port", {"port": "80, 0"}),
    ("port", {"port": "80, 65536"}),
    ("port", {"port": "80-70000"}),
    ("port", {"port": "90-80"}),
    ("port", {"port": "25, 90-80"}),
    ("port", {"port": "25, 443, 443"}),
    ("port", {"port": "20-30, 25"}),
    ("port", {"port": "25, $(x)"}),
    ("port", {"port": "25,\n443"}),
    ("port", {"port": "25; 443"}),
    ("port", {"port": "\N{ARABIC-INDIC DIGIT SEVEN}-\N{ARABIC-INDIC DIGIT NINE}"}),
    ("port", {"port": ","}),
    ("address", {"address": "203.0.113.1, 127.0.0.1"}),
    ("address", {"address": "203.0.113.1, 224.0.0.1"}),
    ("address", {"address": "203.0.113.1, 203.0.113.1"}),
    ("address", {"address": "203.0.113.1, 203.0.113.2, 203.0.113.2"}),
    ("address", {"address": "203.0.113.1, 2001:db8::1"}),
    ("address", {"address": "203.0.113.1, $(x)"}),
    ("address", {"address": "203.0.113.1,\n203.0.113.2"}),
    ("interface", {"interface": "eth0, eth0"}),
    ("interface", {"interface": "eth0, eth1, eth1"}),
    ("interface", {"interface": "eth0, $(x)"}),
    ("interface", {"interface": "eth0 eth1"}),
    ("slow_start", {"slow_start": "30"}),
    ("slow_start", {"slow_start": "3601", "scheduler": "random"}),
    ("slow_start", {"slow_start": "a while", "scheduler": "random"}),
    ("persistence", {"persistence": "cookie"}),
    ("persistence_timeout", SOURCE | {"persistence_timeout": "0"}),
    ("persistence_timeout", {"persistence_timeout": "60"}),
    ("persistence_prefix", SOURCE | {"persistence_prefix": "0"}),
    ("persistence_prefix", SOURCE | {"persistence_prefix": "33"}),
    ("persistence_prefix", SOURCE | {"persistence_prefix": "255.255.255.0"}),
    ("persistence_prefix", {"persistence_prefix": "24"}),
    ("source_nat_address", {"source_nat": "snat"}),
    ("source_nat_address", SNAT | {"source_nat_address": "2001:db8::1"}),
    ("source_nat_address", SNAT | {"source_nat_address": "$(x)"}),
    ("source_nat_address", {"source_nat_address": "198.51.100.1"}),
    (LAST, SNAT | {LAST: "198.51.100.0"}),
    (LAST, SNAT | {LAST: "198.51.100.9\n"}),
    (LAST, {LAST: "198.51.100.9"}),
    ("hairpin", {"hairpin": "on"}),
    ("health", {"health": "smtp"}),
    ("health", {"health": "passive", "protocol": "udp"}),
    ("health_interval", {"health": "tcp", "health_interval": "0"}),
    ("health_interval", {"health": "tcp", "health_interval": "often"}),
    ("health_interval", {"health_interval": "9"}),
    ("health_timeout", {"health": "tcp", "health_timeout": "6"}),
    ("health_fall", {"health": "icmp", "health_fall": "101"}),
    ("health_port", {"health": "tcp", "health_port": "65536"}),
    ("health_port", {"health": "icmp", "health_port": "80"}),
    ("health_address", {"health": "tcp", "health_address": "0.0.0.0"}),
    ("health_host", HTTP | {"health_host": "a b"}),
    ("health_host", HTTP | {"health_host": "a\r\nX: y"}),
    ("health_path", HTTP | {"health_path": "status"}),
    ("health_path", HTTP | {"health_path": "/a b"}),
    ("health_expect_status", HTTP | {"health_expect_status": "ok"}),
    ("health_expect_status", HTTP | {"health_expect_status": "399-200"}),
    ("health_expect_body", HTTP | {"health_expect_body": "x" * 201}),
    ("health_expect_body", HTTP | {"health_expect_body": "x", "health_method": "HEAD"}),
    ("health_certificate_warning_days", HTTP | {"health_certificate_warning_days": "30"}),
    ("health_verify_certificate", HTTP | {"health_verify_certificate": "on"}),
    ("health_send", {"health": "udp", "health_send": "\\q"}),
    ("health_expect", {"health": "udp", "health_expect": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"}),
    ("health_expect", {"health": "tcp", "health_expect": "x"}),
    ("hairpin", SNAT | {"hairpin": "on"}),
]


def test_a_bad_value_is_told_at_its_field_saves_nothing_and_stays_in_the_form(
    site: Site, login: Login, subtests: pytest.Subtests
) -> None:
    client, before = login(site.author), AuditEvent.objects.count()
    for field, typed in BAD:
        with subtests.test(field=field, typed=typed):
            fields = new_service(**typed)

            response = client.post(ADD, fields)

            form = response.context["editor"].form
            assert set(form.errors) == {field}
            (message,) = form.errors[field]
            assert message.endswith(".")
            assert len(message.split()) >= 4
            assert {name: form[name].value() for name in typed if name not in TICKS} == {
                name: value for name, value in typed.items() if name not in TICKS
            }
    assert not Change.objects.exists()
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize(("value", "scheduler"), [("256", "failover"), ("-1", "failover"), ("3", "random")])
def test_a_bad_priority_is_told_in_its_row(site: Site, login: Login, value: str, scheduler: str) -> None:
    fields = add_backends(new_service(scheduler=scheduler), 2) | {"backends-1-priority": value}

    response = login(site.author).post(ADD, fields)

    first, second = response.context["editor"].rows.errors
    assert not first
    assert set(second) == {"priority"}
    assert not Draft.objects.exists()


def test_weights_too_far_apart_for_source_hash_are_told_at_the_scheduler(site: Site, login: Login) -> None:
    fields = add_backends(new_service(scheduler="source-hash"), 6)
    heavy = {f"backends-{n}-weight": "256" for n in range(1, 6)}

    response = login(site.author).post(ADD, fields | heavy)

    assert "would get less than one" in str(response.context["editor"].form.errors["scheduler"])


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_what_two_services_claim_is_told_at_the_form_that_is_saved(
    site: Site, login: Login, name: str
) -> None:
    """Whichever of the two comes first in the document."""
    site.deploy(service_data("mmm", port=25, additional_ports=["8000-8099"], from_node=True))
    client = login(site.author)

    ports = client.post(ADD, new_service(name=name, port="100, 8050"))
    node = client.post(ADD, new_service(name=name, port="8050", interface="eth1", from_node="on"))

    assert set(ports.context["editor"].form.errors) == {"port"}
    assert set(node.context["editor"].form.errors) == {"from_node"}
    assert not Change.objects.filter(state="draft").exists()


def test_every_scheduler_has_words_of_its_own_in_the_form(site: Site, login: Login) -> None:
    page = login(site.author).get(ADD).content.decode()

    assert {value for value, _ in SCHEDULERS} == set(Scheduler) == set(SCHEDULER_HELP)
    assert page.count('data-chosen-by="scheduler" data-value-of="') >= len(Scheduler)
    assert "choose random there" in SCHEDULER_HELP[Scheduler.ROUND_ROBIN]
    assert all(
        "after its last new connection" in text for key, text in PERSISTENCE_HELP.items() if key != "none"
    )


def test_the_preview_names_what_is_still_to_fill_in(site: Site, login: Login) -> None:
    address = reverse("admin:balancer_service_preview", args=[site.cluster.pk])

    text = login(site.author).post(address, new_service(source_nat="snat")).content.decode()

    assert "Still to fill in: new source address." in text


def test_the_list_and_the_page_for_readers_show_all_of_a_service(
    site: Site, login: Login, viewer: Any
) -> None:
    site.deploy(ONE_VOTE)
    client = login(viewer)

    listed = client.get("/balancer/service/").content.decode()
    page = client.get(
        reverse("admin:balancer_service_change", args=[Service.objects.get().pk])
    ).content.decode()

    assert (
        "eth0, bond0.100, eth1 · 203.0.113.1, 203.0.113.2, 203.0.113.9 · tcp 443-445, 80, 8000-8099" in listed
    )
    assert "/24 networks keep their backend for 60 s" in listed
    assert "backends see 198.51.100.1 to 198.51.100.4" in listed
    for words in (
        "HTTPS every 9 s: OPTIONS /health of www.example.net:8443, status 200-299,301, with the expected"
        " text; at 10.0.0.9:8443; down after 5 failures, up after 4 good checks",
        "bond0.100, eth1",
        "443-445, 80, 8000-8099/tcp",
        "60 seconds",
        "same 24 bits",
        "198.51.100.4",
    ):
        assert words in page
    found = client.get("/balancer/service/?q=203.0.113.9")
    assert [row.name for row in found.context["cl"].result_list] == ["every"]


def test_ports_are_read_as_they_are_typed() -> None:
    assert read_ports("443") == {"port": 443}
    assert read_ports(" 443 - 450 ,80,") == {"port": 443, "port_end": 450, "additional_ports": ["80"]}
    assert read_ports("") == {"port": ""}
    assert read_ports("http, 80") == {"port": "http", "additional_ports": ["80"]}


def test_a_clone_has_all_of_the_service_but_its_name(site: Site, login: Login) -> None:
    site.deploy(ONE_VOTE)
    client, row = login(site.author), Service.objects.get()
    fields = form_of(client.get(f"{ADD}?clone={row.pk}"))
    assert fields["port"] == "443-445, 80, 8000-8099"

    client.post(ADD, fields | {"interface": "eth7, eth6", "from_node": ""})

    copy, original = parse_service(Draft.objects.get(service_name="every-copy").after)[0], value_of_row(row)
    assert copy is not None
    assert original is not None
    assert copy == replace(
        original,
        name="every-copy",
        interface="eth7",
        additional_interfaces=("eth6",),
        from_node=False,
    )


def test_an_exported_document_says_nothing_new_when_it_is_imported(site: Site, login: Login) -> None:
    site.deploy(ONE_VOTE, *(service_data(name, **fields) for name, fields in OTHERS.items()))
    client = login(site.author)
    exported = client.get("/balancer/service/export/").content.decode()

    response = client.post(
        "/balancer/service/import/",
        {"cluster": str(site.cluster.pk), "text": exported, "do": "preview", "replace": "on"},
    )

    assert "live or proposed already" in response.content.decode()
    assert '"address_end": "198.51.100.4"' in exported


def test_an_imported_service_is_shown_with_the_place_where_it_listens(site: Site, login: Login) -> None:
    text = json.dumps(document_data(ONE_VOTE))

    response = login(site.author).post(
        "/balancer/service/import/", {"cluster": str(site.cluster.pk), "text": text, "do": "preview"}
    )

    assert "· tcp 443-445, 80, 8000-8099, 2 backends" in response.content.decode()
