"""A row that is work for one node: queued, claimed by its worker, finished."""

from django.db import models


class Claimable(models.Model):
    claim = models.UUIDField(null=True, blank=True)
    """The claimer's token: only its holder may record the outcome."""
    claimed_by = models.CharField(max_length=120, blank=True)
    """boot id, process id and start time of the claimer, see `workflow.claims`."""
    attempts = models.PositiveIntegerField(default=0)
    queued_at = models.DateTimeField()
    claimed_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True
