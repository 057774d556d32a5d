"""Drift that was seen on a node, kept with what became of it. Written by `balancer.workflow.drift` alone."""

from django.conf import settings
from django.db import models

from balancer.models.clusters import Node
from balancer.models.deployments import Job
from balancer.models.revisions import Revision


class DriftEvent(models.Model):
    """From the moment at which a difference was first seen until the kernel carried what it should."""

    class Kind(models.TextChoices):
        RULES = "rules", "Rules differ"
        ORDER = "order", "Rules of others come first"
        """They come before our jumps and may decide about balanced packets; nothing of ours differs."""

    class How(models.TextChoices):
        PUT_BACK = "put-back", "put back by the node"
        ASKED = "asked", "put back because somebody asked for it"
        DEPLOYED = "deployed", "put right by what was applied"
        GUARD = "guard", "put back by the node's guard"
        GONE = "gone", "gone by itself, or by somebody's hand"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="drift_events")
    kind = models.CharField(max_length=8, choices=Kind)
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    """What the node should have carried when it was seen first."""
    seen_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    """When the lines were seen as they are here."""
    lines = models.JSONField(default=list)
    """The first lines of the difference, `- nat: -A LB-S-web ...`."""
    left_out = models.PositiveIntegerField(default=0)
    """Lines beyond those."""
    culprits = models.CharField(max_length=500, blank=True)
    """Who probably did it, in a sentence."""
    held_until = models.DateTimeField(null=True, blank=True)
    """It was put back so often that the node waits until then."""
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    """Who asked for ours to be put back."""
    asked_at = models.DateTimeField(null=True, blank=True)
    job = models.ForeignKey(
        Job, null=True, blank=True, on_delete=models.SET_NULL, related_name="drift_events"
    )
    """The latest that was to put it right."""
    ended_at = models.DateTimeField(null=True, blank=True)
    how = models.CharField(max_length=16, choices=How, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "kind"],
                condition=models.Q(ended_at__isnull=True),
                name="one_open_drift_per_node_and_kind",
            ),
        ]

    def __str__(self) -> str:
        return f"drift of {self.node} ({self.kind})"

    @property
    def size(self) -> int:
        """Lines that differ."""
        return len(self.lines) + self.left_out
