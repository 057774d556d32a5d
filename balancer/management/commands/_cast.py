"""The people of the demo, and what they do: all of it through the workflow, none of it around it."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, DeploymentState
from balancer.models import Change, Cluster, Deployment, Job, Node, Revision
from balancer.workflow.approvals import approve_change
from balancer.workflow.clusters import create_person
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import save_draft
from balancer.workflow.editing import describe_change, open_change
from balancer.workflow.errors import Refused
from balancer.workflow.rehearsed import standing_of
from balancer.workflow.rollback import roll_back_to
from balancer.workflow.submissions import submit_change

ROLES = ("viewer", "editor", "approver", "operator", "administrator")
BUSY_SECONDS = 20.0
NODE_SECONDS = 60.0
DEPLOYMENT_SECONDS = 60.0
REHEARSAL_SECONDS = 90.0


class NotDone(Exception):
    """The stack did not do what the demo promises; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    viewer: User
    editor: User
    approver: User
    operator: User
    administrator: User


def create_cast() -> tuple[Cast, dict[str, str]]:
    """One account for each role, and its password, which is nowhere else."""
    passwords = {name: secrets.token_urlsafe(12) for name in ROLES}
    people = {
        name: create_person(actor=None, username=name, password=password, roles=(name.capitalize(),))
        for name, password in passwords.items()
    }
    return Cast(**people), passwords


def bring_live(
    *, cast: Cast, cluster: Cluster, title: str, service: dict[str, Any], edits: str | None = None
) -> Revision:
    """Editor drafts and submits, approver approves, operator applies, workers do it. `edits`: its name."""
    change = open_change(actor=cast.editor, cluster=cluster, title=title)
    saved = save_draft(actor=cast.editor, cluster=cluster, data=service, change=change, original_name=edits)
    if not saved.saved:
        raise NotDone(f"The draft was not taken: {' '.join(map(str, saved.problems))}")
    describe_change(actor=cast.editor, change=change, title=title, description="Made by the demo.")
    return _review_and_apply(cast=cast, change=change)


def roll_back(*, cast: Cast, revision: Revision) -> Revision:
    """The same way, with the content of an earlier revision."""
    change = roll_back_to(actor=cast.editor, revision=revision)
    return _review_and_apply(cast=cast, change=change)


def wait_for_nodes(*, names: tuple[str, ...], is_alive: Callable[[], bool]) -> dict[str, Node]:
    """Until the worker of every node has told what the node is."""
    deadline = time.monotonic() + NODE_SECONDS
    while True:
        nodes = {node.name: node for node in Node.objects.filter(name__in=names)}
        for name, node in nodes.items():
            if "error" in node.facts:
                raise NotDone(f"The node {name} is of no use: {node.facts['error']}")
        if len(nodes) == len(names) and all(node.facts for node in nodes.values()):
            return nodes
        if time.monotonic() > deadline or not is_alive():
            silent = [name for name in names if name not in nodes or not nodes[name].facts]
            raise NotDone(f"The workers of {', '.join(silent)} do not answer.")
        time.sleep(0.1)


def _review_and_apply(*, cast: Cast, change: Change) -> Revision:
    change = submit_change(actor=cast.editor, change=change)
    _wait_for_rehearsal(change)
    change = approve_change(
        actor=cast.approver, change=change, digest=change.digest, password_at=timezone.now()
    )
    deployment = _apply_when_free(cast=cast, change=change)
    _wait_for_deployment(deployment)
    return deployment.revision


def _wait_for_rehearsal(change: Change) -> None:
    """Approving tells what was found where it has not passed."""
    deadline = time.monotonic() + REHEARSAL_SECONDS
    while standing_of(change).pending:
        if time.monotonic() > deadline:
            raise NotDone(f"{change} was not rehearsed within {REHEARSAL_SECONDS:g} s.")
        time.sleep(0.05)


def _apply_when_free(*, cast: Cast, change: Change) -> Deployment:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return apply_change(actor=cast.operator, change=change)
        except Refused as refusal:
            if refusal.code != "busy" or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _wait_for_deployment(deployment: Deployment) -> None:
    deadline = time.monotonic() + DEPLOYMENT_SECONDS
    while deployment.state in DEPLOYMENT_ACTIVE:
        if time.monotonic() > deadline:
            raise NotDone(f"{deployment} is not over after {DEPLOYMENT_SECONDS:g} s.")
        time.sleep(0.05)
        deployment.refresh_from_db()
    if deployment.state != DeploymentState.SUCCEEDED:
        errors = Job.objects.filter(deployment=deployment).exclude(error="").values_list("error", flat=True)
        raise NotDone(f"{deployment} is {deployment.state}: {deployment.error} {' '.join(errors)}")
