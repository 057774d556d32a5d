"""Clusters and their nodes."""

from django.contrib.auth.models import Group
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from balancer.domain.operation import (
    CONFIRM_SECONDS_MAX,
    CONFIRM_SECONDS_MIN,
    DRILL_HOURS_MAX,
    KEEP_MAX,
    WEIGHT_PERCENT_MAX,
    Away,
    Confirm,
    OnDrift,
    OperationPolicy,
    Rehearse,
)
from balancer.domain.policy import APPROVALS_MAX, EXPIRY_HOURS_MAX, ApprovalPolicy

NAME_VALIDATOR = RegexValidator(
    r"\A[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z",
    "Use 1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end.",
)


class Cluster(models.Model):
    """Nodes that carry the same configuration."""

    name = models.CharField(max_length=63, unique=True, validators=[NAME_VALIDATOR])
    description = models.CharField(max_length=200, blank=True)
    live_revision = models.ForeignKey(
        "balancer.Revision", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    """What every node should carry; set by a deployment that succeeded on every node."""
    approvals = models.PositiveSmallIntegerField(
        default=1,
        validators=[MaxValueValidator(APPROVALS_MAX)],
        help_text="People other than its authors who must approve a change. 0: one person may do it all.",
    )
    critical_approvals = models.PositiveSmallIntegerField(
        default=2,
        validators=[MaxValueValidator(APPROVALS_MAX)],
        verbose_name="approvals for critical services",
        help_text="The same for a change that touches a service marked as critical; never fewer than above.",
    )
    approver_groups = models.ManyToManyField(
        Group,
        blank=True,
        related_name="+",
        help_text="Only approvals of members of these roles count. None chosen: of everyone who may approve.",
    )
    approvals_expire_hours = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(EXPIRY_HOURS_MAX)],
        verbose_name="approvals expire after hours",
        help_text="An approval older than this does not count any more. Empty: it counts for ever.",
    )
    rehearsal = models.CharField(
        max_length=16,
        default=Rehearse.REQUIRED,
        choices=[
            (Rehearse.REQUIRED, "Required before an approval"),
            (Rehearse.OFF, "Not needed"),
        ],
        help_text="A rehearsal loads the ruleset into a throw-away namespace and sends real connections.",
    )
    confirm = models.CharField(
        max_length=16,
        default=Confirm.AUTOMATIC,
        choices=[
            (Confirm.AUTOMATIC, "The worker, when its checks hold"),
            (Confirm.MANUAL, "A person"),
            (Confirm.BOTH, "The worker when its checks hold, or else a person"),
        ],
        verbose_name="confirmed by",
        help_text="Without a confirm in time the node's guard puts the last confirmed ruleset back.",
    )
    confirm_seconds = models.PositiveIntegerField(
        default=120,
        validators=[MinValueValidator(CONFIRM_SECONDS_MIN), MaxValueValidator(CONFIRM_SECONDS_MAX)],
        verbose_name="seconds to confirm",
        help_text=f"{CONFIRM_SECONDS_MIN} to {CONFIRM_SECONDS_MAX}, from just before a node's commit.",
    )
    canary = models.ForeignKey(
        "balancer.Node",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The node that a roll-out begins with. None chosen: the first by name.",
    )
    away = models.CharField(
        max_length=16,
        default=Away.BLOCK,
        choices=[
            (Away.BLOCK, "Holds the roll-out up"),
            (Away.SKIP, "Is left out, and catches up when it returns"),
        ],
        verbose_name="a node that is down",
        help_text="The first node of a roll-out is never left out.",
    )
    rollback_at_once = models.BooleanField(
        default=False,
        verbose_name="operators may roll back at once",
        help_text="To the previous revision only, without an approval.",
    )
    override_weight_percent = models.PositiveIntegerField(
        default=50,
        validators=[MaxValueValidator(WEIGHT_PERCENT_MAX)],
        verbose_name="operators move weights by (%)",
        help_text="At most this far from the approved weight, either way. 0: not at all.",
    )
    override_keep = models.PositiveIntegerField(
        default=1,
        validators=[MaxValueValidator(KEEP_MAX)],
        verbose_name="usable backends that operators leave",
        help_text="An operator cannot drain or disable a backend if fewer would be left to the service.",
    )
    drill_hours = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(DRILL_HOURS_MAX)],
        verbose_name="hours between rollback drills",
        help_text="Each node proves that it goes back by itself. Empty: only when somebody asks for it.",
    )
    on_drift = models.CharField(
        max_length=8,
        default=OnDrift.MEND,
        choices=[
            (OnDrift.MEND, "Puts ours back at once"),
            (OnDrift.ASK, "Waits until an operator says so"),
        ],
        verbose_name="a node whose rules were changed",
        help_text="By a firewall that was reloaded, by a script or by hand. It is shown and on record.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        permissions = [("administer_cluster", "Can administer clusters and nodes")]

    def __str__(self) -> str:
        return self.name

    @property
    def policy(self) -> ApprovalPolicy:
        """As it is in the database now."""
        return ApprovalPolicy(
            approvals=self.approvals,
            critical_approvals=self.critical_approvals,
            groups=tuple(sorted(self.approver_groups.values_list("name", flat=True))),
            expire_hours=self.approvals_expire_hours,
        )

    @property
    def operation(self) -> OperationPolicy:
        return OperationPolicy(
            rehearsal=Rehearse(self.rehearsal),
            confirm=Confirm(self.confirm),
            confirm_seconds=self.confirm_seconds,
            away=Away(self.away),
            rollback_at_once=self.rollback_at_once,
            override_weight_percent=self.override_weight_percent,
            override_keep=self.override_keep,
            drill_hours=self.drill_hours,
            on_drift=OnDrift(self.on_drift),
        )


class Node(models.Model):
    """One balancer machine. Its worker writes the facts; people write name, cluster and driver."""

    class Driver(models.TextChoices):
        AUTO = "auto", "Follow the host's iptables command"
        PYTHON_IPTABLES = "python-iptables", "python-iptables (legacy)"
        IPTABLES_RESTORE = "iptables-restore", "iptables-restore"

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="nodes")
    name = models.CharField(max_length=63, unique=True, validators=[NAME_VALIDATOR])
    description = models.CharField(max_length=200, blank=True)
    driver = models.CharField(max_length=32, choices=Driver, default=Driver.AUTO)
    enabled = models.BooleanField(
        default=True,
        help_text="Takes part in deployments. Switch it off for a machine that is away for long.",
    )
    facts = models.JSONField(default=dict, blank=True, editable=False)
    """As `NodeFacts.to_data()` gives them; empty until the worker was seen."""
    facts_at = models.DateTimeField(null=True, editable=False)
    observation = models.JSONField(default=dict, blank=True, editable=False)
    """As `Observation.to_data()` gives it, {"error": sentence} where nobody could look; empty until then.
    Megabytes on a busy node, so lists defer it."""
    observed_at = models.DateTimeField(null=True, editable=False)
    clients = models.JSONField(default=dict, blank=True, editable=False)
    """{"counts": {set of clients -> how many it remembers}} as the kernel said, {"error": sentence} where it
    could not; empty until it was asked, which is only where a live service has persistence."""
    clients_at = models.DateTimeField(null=True, editable=False)
    leaving = models.JSONField(default=dict, blank=True, editable=False)
    """{"backends": {service: {endpoint: `workflow.leaving.Left` as data}}} of backends that drain, {"error":
    sentence} where they could not be counted; empty where none drains."""
    leaving_at = models.DateTimeField(null=True, editable=False)
    last_seen = models.DateTimeField(null=True, editable=False)
    carried_revision = models.ForeignKey(
        "balancer.Revision", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    """The last revision that was read back from this node's kernel; null where that is not known."""
    carried_overrides = models.CharField(max_length=64, blank=True, editable=False)
    """`digest_overrides` of those that were laid over it then; empty where there were none."""
    carried_weights = models.CharField(max_length=64, blank=True, editable=False)
    """`digest_own_weights` of those that the node had moved itself then; empty where all were as declared."""
    carried_health = models.CharField(max_length=64, blank=True, editable=False)
    """`HealthOverlay.digest` of what its health checks had laid over it then; empty where nothing was."""
    in_sync = models.BooleanField(null=True, editable=False)
    """Whether the kernel's own chains equal the carried revision with these; null where nobody has looked."""
    sync_detail = models.TextField(blank=True, editable=False)
    """The lines that differ, or why nobody could look."""
    checked_at = models.DateTimeField(null=True, editable=False)
    guard = models.JSONField(default=dict, blank=True, editable=False)
    """{"alive": whether its guard runs, "restored": what it put back last, a `guard_state.Outcome`}."""
    drilled_at = models.DateTimeField(null=True, editable=False)
    """When a rollback drill was proven last; null: never."""
    drill_late = models.FloatField(null=True, editable=False)
    """Seconds after the deadline at which the node was back then."""
    drill_flavour = models.CharField(max_length=16, blank=True, editable=False)
    """In which flavour of iptables."""
    drill_failed_at = models.DateTimeField(null=True, editable=False)
    """When the last drill ended, where it failed; null where it was proven, or there was none."""
    drill_error = models.TextField(blank=True, editable=False)
    """Why."""
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        return f"node.{self.name}"
