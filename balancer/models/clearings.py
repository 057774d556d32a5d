"""What people asked the nodes to forget: the clients of services with persistence."""

import uuid

from django.conf import settings
from django.db import models

from balancer.domain.lifecycle import ClearingState
from balancer.models.choices import choices_of
from balancer.models.clusters import Node


class Clearing(models.Model):
    """One node's part of a request to forget the clients of a service, or of one of its backends.

    It names service and backend by text: live rows come and go with revisions.
    """

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    request = models.UUIDField()
    """The same for every node that was asked at once."""
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="clearings")
    service_name = models.CharField(max_length=63)
    endpoint = models.CharField(max_length=64, blank=True)
    """Of the backend, `10.0.0.3:80`; empty for all of the service."""
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField()
    state = models.CharField(max_length=16, choices=choices_of(ClearingState), default=ClearingState.QUEUED)
    finished_at = models.DateTimeField(null=True, blank=True)
    forgotten = models.PositiveIntegerField(null=True, blank=True)
    """How many clients there were; null until it is done."""
    error = models.TextField(blank=True)
    """Why it could not be done."""

    class Meta:
        ordering = ["-requested_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["node", "service_name", "endpoint"],
                condition=models.Q(state="queued"),
                name="one_queued_clearing_of_a_kind_per_node",
            ),
        ]

    def __str__(self) -> str:
        return f"clearing of {self.place} on {self.node}"

    @property
    def place(self) -> str:
        return f"{self.endpoint} of {self.service_name}" if self.endpoint else self.service_name
