"""Approving asks for the password again, once in a few minutes."""

from datetime import timedelta

import pytest
import time_machine
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from balancer.admin.change_deeds import TRIES_MAX
from balancer.models import AuditEvent, Change
from balancer.workflow.approvals import PASSWORD_FRESH
from tests.admin.conftest import messages_of
from tests.cast import PASSWORD, Site


@pytest.fixture
def reviewer(site: Site) -> Client:
    """Logged in long ago."""
    site.approver.set_password(PASSWORD)
    site.approver.save()
    client = Client()
    client.force_login(site.approver)
    return client


def approve(client: Client, change: Change, **fields: str) -> object:
    address = reverse("admin:balancer_change_do", args=[change.pk, "approve"])
    return client.post(address, {"digest": change.digest, **fields}, follow=True)


def test_an_approval_without_the_password_is_refused(reviewer: Client, submitted: Change) -> None:
    response = approve(reviewer, submitted)

    assert "Type your password once more" in messages_of(response)
    assert not submitted.votes.exists()
    assert AuditEvent.objects.get(action="change.approved.refused").facts["code"] == "password"


def test_a_wrong_password_is_refused_on_record_and_what_was_typed_stays(
    reviewer: Client, submitted: Change
) -> None:
    response = approve(reviewer, submitted, password="guess", reason="Looks right to me")

    assert "not your password" in messages_of(response)
    assert "Looks right to me" in response.content.decode()
    assert "guess" not in response.content.decode()
    assert not submitted.votes.exists()
    assert AuditEvent.objects.get(action="password.proved.refused").actor_name == "approver"


def test_the_right_password_approves_and_counts_for_a_few_minutes(
    reviewer: Client, site: Site, submitted: Change
) -> None:
    page = reverse("admin:balancer_change_change", args=[submitted.pk])
    assert 'type="password"' in reviewer.get(page).content.decode()

    approve(reviewer, submitted, password=PASSWORD)

    submitted.refresh_from_db()
    assert submitted.state == "approved"
    with time_machine.travel(timezone.now() + PASSWORD_FRESH - timedelta(seconds=5), tick=False):
        assert reviewer.session["lbadmin_password_at"] > (timezone.now() - PASSWORD_FRESH).timestamp()
    with time_machine.travel(timezone.now() + PASSWORD_FRESH + timedelta(seconds=5), tick=False):
        assert "Type your password" in messages_of(approve(reviewer, submitted))


def test_somebody_who_guesses_is_logged_out(reviewer: Client, submitted: Change) -> None:
    for _ in range(TRIES_MAX):
        approve(reviewer, submitted, password="guess")

    assert "_auth_user_id" not in reviewer.session
    assert not submitted.votes.exists()


def test_somebody_elses_password_does_not_count(reviewer: Client, site: Site, submitted: Change) -> None:
    User.objects.get(pk=site.operator.pk).set_password("another good password")

    response = approve(reviewer, submitted, password="another good password")

    assert "not your password" in messages_of(response)
