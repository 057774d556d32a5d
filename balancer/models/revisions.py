"""Revisions: what was, for ever."""

from typing import Any, NoReturn

from django.db import models

from balancer.models.clusters import Cluster


class Revision(models.Model):
    """An immutable document with its rulesets. Number 0 is the empty one that a cluster starts with."""

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="revisions")
    number = models.PositiveIntegerField()
    document = models.TextField()
    """Canonical JSON, as `dump_document` writes it."""
    rulesets = models.JSONField()
    """Family -> text for iptables-restore, as `render_ruleset` writes it."""
    compiler = models.PositiveIntegerField(default=1)
    """Which `ruleset.compile.COMPILER` made the rulesets; 1 where nobody wrote it down."""
    digest = models.CharField(max_length=64)
    """sha256 over the document and the rulesets, see `domain.digests.digest_revision`."""
    change = models.ForeignKey(
        "balancer.Change", null=True, blank=True, on_delete=models.PROTECT, related_name="revisions"
    )
    author_name = models.CharField(max_length=150)
    """Kept as text: it outlives the account."""
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["cluster", "number"], name="revision_number_once_per_cluster"),
        ]
        permissions = [("roll_back_revision", "Can ask to roll back to a revision")]

    def __str__(self) -> str:
        return f"{self.cluster} revision {self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("A revision never changes; make a new one.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("A revision is never deleted.")
