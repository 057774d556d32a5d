"""The audit history: rows are added, and that is all; triggers in the database see to it."""

from typing import Any, NoReturn

from django.db import models


class AuditEvent(models.Model):
    """One deed. No foreign keys: names outlive accounts and objects. What is hashed: `domain.chain`."""

    number = models.PositiveBigIntegerField(unique=True)
    """1, 2, 3 …, without a gap."""
    at = models.DateTimeField(db_index=True)
    actor_id = models.BigIntegerField(null=True)
    """The account's key; null is the system itself."""
    actor_name = models.CharField(max_length=150)
    source = models.CharField(max_length=64, blank=True)
    """The address that the deed came from; empty for the system and for commands."""
    action = models.CharField(max_length=64, db_index=True)
    """Namespaced: `change.submitted`, `job.succeeded`, `change.approve.refused`."""
    object_type = models.CharField(max_length=32, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_label = models.CharField(max_length=250, blank=True)
    facts = models.JSONField(default=dict)
    previous = models.CharField(max_length=64)
    """The hash of the event before, 64 zeros for the first."""
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index(fields=["object_type", "object_id"], name="audit_by_object")]

    def __str__(self) -> str:
        return f"{self.actor_name}: {self.action} {self.object_label}".rstrip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("An audit event never changes.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("An audit event is never deleted.")
