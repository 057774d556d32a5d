"""Emergencies: changes that were applied without waiting for anybody."""

from django.conf import settings
from django.db import models

from balancer.models.changes import Change


class Emergency(models.Model):
    """That somebody took it upon themselves to apply a change at once; never updated."""

    change = models.ForeignKey(Change, on_delete=models.PROTECT, related_name="emergencies")
    digest = models.CharField(max_length=64)
    """What was applied: the digest of the change at that moment."""
    reason = models.TextField()
    declared_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    declared_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "emergencies"
        permissions = [("declare_emergency", "Can apply changes in an emergency, without an approval")]

    def __str__(self) -> str:
        return f"emergency {self.pk}: {self.change}"
