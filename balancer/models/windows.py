"""When changes are applied, and when none is: windows and freezes."""

from django.conf import settings
from django.db import models

from balancer.domain.lifecycle import WINDOW_ACTIVE, WindowState
from balancer.models.changes import Change
from balancer.models.choices import choices_of
from balancer.models.clusters import Cluster
from balancer.models.deployments import Deployment
from balancer.models.revisions import Revision


class Freeze(models.Model):
    """A time in which nothing is applied, until it ends or somebody lifts it."""

    cluster = models.ForeignKey(
        Cluster, null=True, blank=True, on_delete=models.PROTECT, related_name="freezes"
    )
    """Null: all of them."""
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    reason = models.CharField(max_length=200)
    made_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    made_at = models.DateTimeField()
    lifted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    lifted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["starts_at", "pk"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at__gt=models.F("starts_at")), name="freeze_ends_after_it_starts"
            ),
        ]

    def __str__(self) -> str:
        return f"freeze of {self.cluster.name if self.cluster else 'all clusters'}: {self.reason}"


class Window(models.Model):
    """A time to come in which an approved change is applied; the row is the queue."""

    change = models.ForeignKey(Change, on_delete=models.PROTECT, related_name="windows")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    """Nothing begins from then on; what has begun goes on."""
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField()
    state = models.CharField(max_length=16, choices=choices_of(WindowState), default=WindowState.WAITING)
    code = models.CharField(max_length=32, blank=True)
    """Why it was stopped, as `Refused.code`; empty otherwise."""
    why = models.TextField(blank=True)
    """Why it waits, was stopped or missed, and what to do, in sentences."""
    digest = models.CharField(max_length=64)
    """Of the change, when it was scheduled."""
    ruleset_digest = models.CharField(max_length=64)
    """Of what was compiled then, see `workflow.schedules.digest_rulesets`."""
    base_revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    """What was live then."""
    rehearsing_since = models.DateTimeField(null=True, blank=True)
    deployment = models.ForeignKey(
        Deployment, null=True, blank=True, on_delete=models.PROTECT, related_name="windows"
    )
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["starts_at", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["change"],
                condition=models.Q(state__in=sorted(WINDOW_ACTIVE)),
                name="one_active_window_per_change",
            ),
            models.CheckConstraint(
                condition=models.Q(ends_at__gt=models.F("starts_at")), name="window_ends_after_it_starts"
            ),
        ]

    def __str__(self) -> str:
        return f"window of {self.change}"
