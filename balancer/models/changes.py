"""Changes, the drafts in them, and the votes on them."""

from typing import Any, NoReturn

from django.conf import settings
from django.db import models

from balancer.domain.lifecycle import ChangeState
from balancer.models.choices import choices_of
from balancer.models.clusters import Cluster
from balancer.models.revisions import Revision


class Change(models.Model):
    """A set of drafts that is submitted, approved and applied as a unit."""

    class Kind(models.TextChoices):
        EDIT = "edit", "Edit"
        ROLLBACK = "rollback", "Rollback"

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="changes")
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.EDIT)
    rollback_of = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.PROTECT, related_name="rollbacks"
    )
    """The revision whose content this change brings back."""
    rollback_services = models.JSONField(null=True, blank=True)
    """The names of the services that a rollback brings back, sorted; null: the whole revision."""
    at_once = models.BooleanField(default=False)
    """A rollback to the previous revision, which the policy lets an operator apply without an approval."""
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="changes")
    contributors = models.ManyToManyField(
        settings.AUTH_USER_MODEL, blank=True, related_name="contributed_changes"
    )
    """Everyone who ever edited a draft in it. None of them can approve it, even after the draft is gone."""
    invited = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="invited_to_changes")
    """Who may edit its drafts beside the author; whoever does so becomes a contributor."""
    state = models.CharField(max_length=24, choices=choices_of(ChangeState), default=ChangeState.DRAFT)
    base_revision = models.ForeignKey(
        Revision, null=True, blank=True, on_delete=models.PROTECT, related_name="changes_based_here"
    )
    """The live revision when the change was last submitted (opened, before that)."""
    digest = models.CharField(max_length=64, blank=True)
    """What reviewers see, as one number; set by submit, empty in a draft."""
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    submitted_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(kind="rollback", rollback_of__isnull=False)
                | models.Q(kind="edit", rollback_of__isnull=True),
                name="rollback_names_its_revision",
            ),
        ]
        permissions = [
            ("draft_change", "Can draft, submit and withdraw changes"),
            ("approve_change", "Can approve and reject changes of others"),
            ("apply_change", "Can apply approved changes and cancel deployments"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.title}"


class Draft(models.Model):
    """A proposed new, modified or deleted service; never live."""

    class Action(models.TextChoices):
        CREATE = "create", "New"
        MODIFY = "modify", "Modified"
        DELETE = "delete", "Deleted"

    change = models.ForeignKey(Change, on_delete=models.CASCADE, related_name="drafts")
    service_name = models.CharField(max_length=63)
    action = models.CharField(max_length=16, choices=Action)
    before = models.JSONField(null=True)
    """The live service when this was drafted, as `service_to_data` gives it; null where there was none."""
    after = models.JSONField(null=True)
    """The proposed service; null where it is to go."""
    updated_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    updated_at = models.DateTimeField()
    version = models.PositiveIntegerField(default=1)
    """Grows with every save: a form that was opened on an older one is refused."""

    class Meta:
        ordering = ["service_name"]
        constraints = [
            models.UniqueConstraint(fields=["change", "service_name"], name="draft_once_per_service"),
            models.CheckConstraint(
                condition=models.Q(action="create", before__isnull=True, after__isnull=False)
                | models.Q(action="modify", before__isnull=False, after__isnull=False)
                | models.Q(action="delete", before__isnull=False, after__isnull=True),
                name="draft_action_fits_content",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_action_display()}: {self.service_name}"


class Review(models.Model):
    """What a reviewer was shown, for ever: fields, traffic, rules, connections at stake, warnings."""

    digest = models.CharField(max_length=64, unique=True)
    """sha256 over the canonical JSON of the content; the audit event of a vote names it."""
    content = models.JSONField()
    """See `workflow.reviews.build_review`."""
    change = models.ForeignKey(Change, on_delete=models.PROTECT, related_name="reviews")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"review {self.digest[:12]} of {self.change}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("What was reviewed never changes.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("What was reviewed is never deleted.")


class Vote(models.Model):
    """One person's verdict on exactly the bytes that `digest` stands for. Dropped with any edit."""

    class Verdict(models.TextChoices):
        APPROVE = "approve", "Approved"
        REJECT = "reject", "Rejected"
        REQUEST_CHANGES = "request-changes", "Requested changes"

    change = models.ForeignKey(Change, on_delete=models.CASCADE, related_name="votes")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    verdict = models.CharField(max_length=16, choices=Verdict)
    digest = models.CharField(max_length=64)
    review = models.ForeignKey(Review, null=True, on_delete=models.PROTECT, related_name="votes")
    """What this person was shown; null for votes of versions that did not keep it."""
    reason = models.TextField(blank=True)
    at = models.DateTimeField()

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["change", "user"], name="vote_once_per_person")]

    def __str__(self) -> str:
        return f"{self.user}: {self.get_verdict_display()}"


class EditedChange(models.Model):
    """The change that a person's edits in a cluster go into."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="+")
    change = models.ForeignKey(Change, on_delete=models.CASCADE, related_name="+")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "cluster"], name="one_edited_change_per_person"),
        ]

    def __str__(self) -> str:
        return f"{self.user} edits {self.change}"
