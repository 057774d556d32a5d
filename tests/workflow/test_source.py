"""Where a request comes from: never the caller's own word, never anything but an address."""

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from balancer.models import AuditEvent, Change
from balancer.workflow.submissions import submit_change
from lbadmin.source import Proxies
from tests.cast import PASSWORD, Site
from tests.documents import service_data

PROXIES = Proxies(["127.0.0.1", "10.1.0.0/16", "2001:db8:1::/48", "unix"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.9", "192.0.2.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", "203.0.113.5, 198.51.100.9", "198.51.100.9"),
        ("127.0.0.1", "203.0.113.5, 198.51.100.9, 10.1.2.3", "198.51.100.9"),
        ("127.0.0.1", "10.1.2.4, 10.1.2.3", "10.1.2.4"),
        ("127.0.0.1", "198.51.100.9, <script>", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.9, unknown, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "198.51.100.9:4711", "198.51.100.9"),
        ("127.0.0.1", "[2001:db8::9]:4711", "2001:db8::9"),
        ("127.0.0.1", "2001:DB8::9", "2001:db8::9"),
        ("127.0.0.1", "fe80::1%<script>", "fe80::1"),
        ("::ffff:127.0.0.1", "::ffff:198.51.100.9", "198.51.100.9"),
        ("2001:db8:1::5", "198.51.100.9", "198.51.100.9"),
        ("", "198.51.100.9", "198.51.100.9"),
        ("", "", ""),
        ("nonsense", "198.51.100.9", ""),
    ],
)
def test_the_source_is_the_last_one_that_no_trusted_proxy_is(
    peer: str, forwarded: str, expected: str
) -> None:
    assert PROXIES.find_source(peer=peer, forwarded=forwarded) == expected


def test_without_trusted_proxies_nobodys_word_is_taken() -> None:
    nobody = Proxies([])

    assert nobody.find_source(peer="127.0.0.1", forwarded="198.51.100.9") == "127.0.0.1"
    assert nobody.find_source(peer="", forwarded="198.51.100.9") == ""


@given(st.sampled_from(["", "127.0.0.1", "192.0.2.1"]), st.text() | st.text("0123456789abcdef:.,[]% "))
def test_whatever_the_header_says_the_source_is_an_address_or_empty(peer: str, forwarded: str) -> None:
    found = PROXIES.find_source(peer=peer, forwarded=forwarded)

    assert set(found) <= set("0123456789abcdef:.")
    assert len(found) <= 39


def test_a_proxy_that_is_no_address_is_a_mistake_that_is_told() -> None:
    with pytest.raises(ImproperlyConfigured, match="LBADMIN_TRUSTED_PROXIES"):
        Proxies(["proxy.example.net"])


def test_a_deed_in_the_console_carries_the_address_it_came_from(
    site: Site, approver: User, settings: Settings
) -> None:
    settings.LBADMIN_TRUSTED_PROXIES = ["127.0.0.1"]
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    client = Client(REMOTE_ADDR="127.0.0.1", headers={"X-Forwarded-For": "192.0.2.66, 198.51.100.9"})
    approver.set_password(PASSWORD)
    approver.save()
    client.force_login(approver)

    fields = {"digest": change.digest, "password": PASSWORD}
    client.post(f"/balancer/change/{change.pk}/do/approve/", fields)

    assert Change.objects.get(pk=change.pk).state == "approved"
    assert AuditEvent.objects.get(action="change.approved").source == "198.51.100.9"
    assert AuditEvent.objects.get(action="change.submitted").source == ""


def test_a_refused_deed_carries_it_too(site: Site, stranger: User) -> None:
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    client = Client(REMOTE_ADDR="2001:db8::66")
    client.force_login(site.author)

    client.post(f"/balancer/change/{change.pk}/do/approve/", {"digest": change.digest})

    assert AuditEvent.objects.get(action="change.approved.refused").source == "2001:db8::66"
