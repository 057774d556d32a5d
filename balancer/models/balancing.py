"""Weights that a node moves itself: what it remembers of them, and a short log apart from configuration."""

from django.db import models

from balancer.models.clusters import Node


class NodeBalance(models.Model):
    """`domain.own_weights.Memory` of one node. Written by its worker alone."""

    node = models.OneToOneField(Node, on_delete=models.CASCADE, related_name="balance")
    taking = models.JSONField(default=dict)
    """Service -> endpoints that took new connections in what the node carried last."""
    services = models.JSONField(default=dict)
    """Service -> `Remembered.to_data()`."""
    looked_at = models.DateTimeField(null=True)
    """When connections were counted last for least-connections."""
    written_at = models.DateTimeField(null=True)
    """When moved weights were written to the kernel last."""

    def __str__(self) -> str:
        return f"weights of {self.node}"


class WeightMove(models.Model):
    """One backend's share as the node moved it. The last ones of each node are kept."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="weight_moves")
    at = models.DateTimeField()
    service_name = models.CharField(max_length=63)
    backend = models.CharField(max_length=64)
    """Its endpoint."""
    share_before = models.FloatField()
    share_after = models.FloatField()
    """Of the service's new connections; from 0 to 1."""
    why = models.CharField(max_length=200)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["node", "service_name"], name="weight_moves_of_service")]

    def __str__(self) -> str:
        return f"{self.backend} of {self.service_name} on {self.node}"
