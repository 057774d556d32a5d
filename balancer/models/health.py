"""What the health checks of a node found, what the node carries because of it, and a short log of both.

Operational rows: apart from configuration, in no document and in no audit chain.
"""

from django.db import models

from balancer.models.clusters import Node


class NodeHealth(models.Model):
    """Of one node."""

    node = models.OneToOneField(Node, on_delete=models.CASCADE, related_name="health")
    checked_at = models.DateTimeField(null=True)
    """The heartbeat of the node's health daemon."""
    laid_over = models.JSONField(default=dict)
    """`HealthOverlay.to_data()` (domain): what the node is to carry. Written by its worker alone."""
    written_at = models.DateTimeField(null=True)
    """When health was written to the kernel last."""

    def __str__(self) -> str:
        return f"health on {self.node}"


class BackendHealth(models.Model):
    """What one node knows of one backend of one service. Written by the node's health daemon alone, and only
    when something changed: that it is still looked at is told by `NodeHealth.checked_at`."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="backend_health")
    service_name = models.CharField(max_length=63)
    endpoint = models.CharField(max_length=64)
    up = models.BooleanField(null=True)
    """Null: not decided."""
    since = models.DateTimeField()
    """When `up` became what it is."""
    checked_at = models.DateTimeField()
    """Of the check that `reason` tells of."""
    reason = models.TextField()
    warning = models.TextField(blank=True)

    class Meta:
        ordering = ["service_name", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "service_name", "endpoint"], name="backend_health_once_per_node"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.endpoint} of {self.service_name} on {self.node}"


class HealthEvent(models.Model):
    """A backend that went up or down on a node, or a service that had too few. The last ones are kept."""

    class Kind(models.TextChoices):
        UP = "up", "Up"
        DOWN = "down", "Down"
        PANIC = "panic", "Too few healthy"
        CALM = "calm", "Enough healthy again"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="health_events")
    at = models.DateTimeField()
    service_name = models.CharField(max_length=63)
    endpoint = models.CharField(max_length=64, blank=True)
    """Empty where it is about the service."""
    kind = models.CharField(max_length=8, choices=Kind)
    why = models.TextField()
    carried_at = models.DateTimeField(null=True)
    """When the node's kernel was brought in line; null where that has not happened."""

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["node", "service_name"], name="health_events_of_service")]

    def __str__(self) -> str:
        return f"{self.endpoint or self.service_name} {self.kind} on {self.node}"
