"""Deployments and the jobs of the nodes: rows are the queue."""

import uuid
import zlib
from typing import Any, NoReturn

from django.conf import settings
from django.db import models

from balancer.domain.lifecycle import DEPLOYMENT_ACTIVE, JOB_ACTIVE, DeploymentState, JobState
from balancer.models.changes import Change
from balancer.models.choices import choices_of
from balancer.models.claiming import Claimable
from balancer.models.clusters import Cluster, Node
from balancer.models.emergencies import Emergency
from balancer.models.revisions import Revision


class Deployment(models.Model):
    """One attempt to bring a revision to every node of a cluster."""

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="deployments")
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="deployments")
    change = models.ForeignKey(Change, on_delete=models.PROTECT, related_name="deployments")
    emergency = models.ForeignKey(
        Emergency, null=True, blank=True, on_delete=models.PROTECT, related_name="deployments"
    )
    """What stands in for approvals and rehearsal; null where these were there."""
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    cancelled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    """Who gave up on it; nodes that wait for their confirm are put back then."""
    state = models.CharField(
        max_length=16, choices=choices_of(DeploymentState), default=DeploymentState.RUNNING
    )
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["cluster"],
                condition=models.Q(state__in=sorted(DEPLOYMENT_ACTIVE)),
                name="one_active_deployment_per_cluster",
            ),
        ]

    def __str__(self) -> str:
        return f"deployment {self.pk} of {self.revision}"


class Job(Claimable):
    """One node's part of a deployment, its way back to what it should carry, or a rollback drill."""

    class Reason(models.TextChoices):
        DEPLOY = "deploy", "Deployment"
        CONVERGE = "converge", "Convergence"
        DRILL = "drill", "Rollback drill"

    uuid = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(
        Deployment, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs"
    )
    node = models.ForeignKey(Node, on_delete=models.PROTECT, related_name="jobs")
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="jobs")
    reason = models.CharField(max_length=16, choices=Reason)
    position = models.PositiveIntegerField(default=0)
    """In a roll-out: 1 for the canary, and so on; each begins when all before it have succeeded or were
    skipped. 0 outside of one."""
    cause = models.CharField(max_length=200, blank=True)
    """Why a convergence or a drill was started, in words."""
    state = models.CharField(max_length=16, choices=choices_of(JobState), default=JobState.QUEUED)
    steps = models.JSONField(default=list, blank=True)
    """[{"at": ISO time, "text": sentence}], in order."""
    receipt = models.JSONField(null=True, blank=True)
    """What the kernel driver says it did; null until it did."""
    error = models.TextField(blank=True)
    probes = models.JSONField(default=list, blank=True)
    """[{"name", "passed", "text"}], the checks after the commit as they were made last. Of a drill: that its
    marker was read back, with the "token" of the arming."""
    confirm_by = models.DateTimeField(null=True, blank=True)
    """When the node goes back by itself, by the worker's clock; for people only, the guard has its own."""
    confirmed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    """The person who asked for the confirm; the worker makes it final."""
    restored = models.JSONField(null=True, blank=True)
    """What the node's guard put back instead (in a drill: as it should), as `guard_state.Outcome` has it."""

    class Meta:
        ordering = ["-queued_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["node"],
                condition=models.Q(state__in=sorted(JOB_ACTIVE)),
                name="one_active_job_per_node",
            ),
            models.CheckConstraint(
                condition=models.Q(reason="deploy", deployment__isnull=False)
                | models.Q(reason__in=["converge", "drill"], deployment__isnull=True),
                name="job_reason_fits_deployment",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_reason_display()} of {self.revision} on {self.node}"


class Evidence(models.Model):
    """The evidence file of a deployment that has ended; added once and never changed."""

    deployment = models.OneToOneField(Deployment, on_delete=models.PROTECT, related_name="evidence")
    packed = models.BinaryField()
    """zlib over the file: it holds document and rules, which are long and repeat themselves."""
    sha256 = models.CharField(max_length=64)
    """Of the file; the audit event `evidence.sealed` names it."""
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "evidence"

    def __str__(self) -> str:
        return f"evidence of {self.deployment}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("Evidence never changes.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Evidence is never deleted.")

    @property
    def text(self) -> str:
        return zlib.decompress(self.packed).decode()
