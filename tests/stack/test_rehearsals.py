"""A submitted change is tried by a real worker, in a namespace of its own, before anybody can approve it."""

import subprocess

from django.utils import timezone

from balancer.models import Change, Node, Rehearsal
from balancer.workflow.approvals import approve_change
from balancer.workflow.deployments import apply_change
from balancer.workflow.rehearsed import standing_of
from balancer.workflow.submissions import submit_change
from tests.cast import Site, let_rehearsals_be
from tests.documents import service_data
from tests.kernel.machine import Namespace
from tests.stack.machinery import Stack, eventually
from tests.stack.site import LEGACY, NFT, events, make_site, wait_for_end
from tests.workflow.deeds import refusal_of


def begin(stack: Stack, namespace: Namespace, **env: str) -> tuple[Site, Change]:
    """A worker, and a change that was just submitted."""
    site = make_site("lb1")
    let_rehearsals_be(site.cluster, rehearsal="required")
    stack.worker("lb1", inside=namespace, **env)
    eventually(lambda: Node.objects.get(name="lb1").facts, what="the first tick of the worker")
    return site, submit_change(actor=site.author, change=site.change(service_data("web")))


def approve(site: Site, change: Change) -> Change:
    return approve_change(
        actor=site.approver, change=change, digest=change.digest, password_at=timezone.now()
    )


def test_a_submitted_change_is_rehearsed_at_once_and_can_then_be_approved_and_applied(
    stack: Stack, namespace: Namespace
) -> None:
    site, change = begin(stack, namespace, **NFT)
    assert refusal_of(lambda: approve(site, change)).code == "not-rehearsed"

    eventually(lambda: standing_of(change).passed, what="the rehearsal")

    deployment = apply_change(actor=site.operator, change=approve(site, change))
    assert wait_for_end(deployment).state == "succeeded"
    found = Rehearsal.objects.get()
    assert [end["measured"] for end in found.result["services"][0]["endpoints"]] == [100] * 4
    assert found.result["digest"] == found.ruleset_digest
    assert events("worker.refused") == []
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "rehearsal-" not in left


def test_what_a_spoilt_compiler_makes_cannot_be_approved_and_the_reason_has_the_measured_numbers(
    stack: Stack, namespace: Namespace
) -> None:
    site, change = begin(stack, namespace, **LEGACY, DJANGO_SETTINGS_MODULE="tests.stack.spoilt")

    eventually(lambda: not standing_of(change).pending, what="the rehearsal")

    refused = refusal_of(lambda: approve(site, change))
    assert refused.code == "not-rehearsed"
    assert "10.0.0.3:80 got 200 of 400 connections (50.0 %), where 100 (25.0 %)" in refused.message
    assert Change.objects.get().state == "submitted"
