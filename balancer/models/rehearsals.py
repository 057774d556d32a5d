"""Rehearsals: what became of a change's ruleset in a throw-away namespace of a node."""

import uuid

from django.conf import settings
from django.db import models

from balancer.domain.lifecycle import REHEARSAL_ACTIVE, RehearsalState
from balancer.models.changes import Change
from balancer.models.choices import choices_of
from balancer.models.claiming import Claimable
from balancer.models.clusters import Node


class Rehearsal(Claimable):
    """One try of what a change proposes, by the worker of one node, in that node's own way."""

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    change = models.ForeignKey(Change, on_delete=models.PROTECT, related_name="rehearsals")
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="rehearsals")
    digest = models.CharField(max_length=64)
    """The digest of the change as it was tried, see `workflow.changes.digest_change`."""
    ruleset_digest = models.CharField(max_length=64, blank=True)
    """SHA-256 of the canonical text of the whole ruleset that was compiled for it; empty until then."""
    flavour = models.CharField(max_length=16)
    driver = models.CharField(max_length=32)
    """With the flavour: what it counts for. Of the node when it was queued, as it was used afterwards."""
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    """None: the system itself."""
    cause = models.CharField(max_length=200, blank=True)
    """Why it was asked for, in words."""
    state = models.CharField(max_length=16, choices=choices_of(RehearsalState), default=RehearsalState.QUEUED)
    result = models.JSONField(null=True, blank=True)
    """As `lab.rehearsal.Rehearsal.to_data()` gives it; null until then, and where it could not be made."""
    error = models.TextField(blank=True)
    """Why it could not be made, or was cancelled."""

    class Meta:
        ordering = ["-queued_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "change"],
                condition=models.Q(state__in=sorted(REHEARSAL_ACTIVE)),
                name="one_active_rehearsal_per_node_and_change",
            ),
        ]

    def __str__(self) -> str:
        return f"rehearsal of {self.change} on {self.node}"
