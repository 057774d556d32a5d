"""What operators set beside the document, and the signatures that are asked for afterwards."""

from ipaddress import ip_address

from django.conf import settings
from django.db import models

from balancer.domain.types import BackendState, format_endpoint
from balancer.models.choices import choices_of
from balancer.models.clusters import Cluster
from balancer.models.revisions import Revision


class Override(models.Model):
    """An operational override of one backend's state or weight; in force until it is lifted.

    It names service and backend by text: live rows come and go with revisions, the override stays.
    """

    class Kind(models.TextChoices):
        STATE = "state", "State"
        WEIGHT = "weight", "Weight"

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="overrides")
    service_name = models.CharField(max_length=63)
    address = models.GenericIPAddressField()
    port = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=Kind)
    state = models.CharField(max_length=16, choices=choices_of(BackendState), blank=True)
    weight = models.PositiveIntegerField(null=True, blank=True)
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="+")
    """What was live when it was set: what it was laid over first."""
    reason = models.TextField()
    set_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    set_at = models.DateTimeField()
    lifted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    lifted_at = models.DateTimeField(null=True, blank=True)
    """Null while it is in force."""

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["cluster", "service_name", "address", "port", "kind"],
                condition=models.Q(lifted_at__isnull=True),
                name="one_override_of_a_kind_per_backend",
            ),
            models.CheckConstraint(
                condition=(models.Q(kind="state", weight__isnull=True) & ~models.Q(state=""))
                | models.Q(kind="weight", weight__gte=1, weight__lte=256, state=""),
                name="override_kind_fits_content",
            ),
            models.CheckConstraint(
                condition=models.Q(lifted_at__isnull=True, lifted_by__isnull=True)
                | models.Q(lifted_at__isnull=False, lifted_by__isnull=False),
                name="override_lifted_by_somebody",
            ),
        ]
        permissions = [("operate_backend", "Can drain, disable and enable backends and shift weights")]

    def __str__(self) -> str:
        return f"{self.words}: {self.endpoint} of {self.service_name}"

    @property
    def endpoint(self) -> str:
        return format_endpoint(address=ip_address(self.address), port=self.port)

    @property
    def words(self) -> str:
        """`drained`, `disabled`, `enabled`, `weight 3`."""
        drained = "drained" if self.state == BackendState.DRAINING else self.state
        return f"weight {self.weight}" if self.kind == self.Kind.WEIGHT else drained

    @property
    def done(self) -> str:
        """To follow the name of who did it: `drained 10.0.0.3:80 of web`."""
        verb = f"set {self.words} for" if self.kind == self.Kind.WEIGHT else self.words
        return f"{verb} {self.endpoint} of {self.service_name}"


class LateReview(models.Model):
    """A second person's signature under what was done without a review beforehand."""

    class Kind(models.TextChoices):
        OVERRIDE = "override", "Operational override"
        EMERGENCY = "emergency", "Emergency"

    kind = models.CharField(max_length=16, choices=Kind)
    subject_id = models.PositiveBigIntegerField()
    """The key of the override or of the emergency."""
    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="late_reviews")
    opened_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    """Who did it."""
    opened_at = models.DateTimeField()
    reason = models.TextField()
    signed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    signed_at = models.DateTimeField(null=True, blank=True)
    comment = models.TextField(blank=True)
    """What the second person says to it."""

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["kind", "subject_id"], name="one_late_review_per_subject"),
            models.CheckConstraint(
                condition=models.Q(signed_at__isnull=True, signed_by__isnull=True)
                | models.Q(signed_at__isnull=False, signed_by__isnull=False),
                name="late_review_signed_by_somebody",
            ),
            models.CheckConstraint(
                condition=models.Q(signed_by__isnull=True) | ~models.Q(signed_by=models.F("opened_by")),
                name="late_review_signed_by_a_second_person",
            ),
        ]

    def __str__(self) -> str:
        return f"late review {self.pk}: {self.get_kind_display().lower()} by {self.opened_by}"

    @property
    def signed(self) -> bool:
        return self.signed_at is not None
