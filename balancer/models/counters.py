"""What nodes counted. Written by `workflow.counters` alone."""

from django.db import models

from balancer.models.clusters import Node


class CounterState(models.Model):
    """How a node's counting goes."""

    node = models.OneToOneField(Node, on_delete=models.CASCADE, related_name="counting")
    epoch = models.CharField(max_length=64, blank=True)
    """Of the node's totals, as its disk knows it."""
    counted_at = models.DateTimeField(null=True)
    """The last look."""
    duration_ms = models.PositiveIntegerField(default=0)
    notes = models.JSONField(default=list)
    """[{"at": ISO time, "text": sentence}], the newest first: what is missing or could not be read."""

    def __str__(self) -> str:
        return f"counting on {self.node}"


class CounterSample(models.Model):
    """One look at all services of a node. Kept until its five minutes are over, then in slices."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="counter_samples")
    at = models.DateTimeField()
    """A multiple of ten seconds."""
    seconds = models.FloatField()
    """Since the look before it."""
    packed = models.BinaryField()
    """zlib over JSON: service -> `domain.counters.ServicePoint.to_data()`, where anything happened."""

    class Meta:
        ordering = ["at"]
        constraints = [models.UniqueConstraint(fields=["node", "at"], name="one_counter_sample_at_a_time")]

    def __str__(self) -> str:
        return f"{self.node} at {self.at}"


class CounterSlice(models.Model):
    """Five minutes of one service at ten seconds, or six hours at five minutes, where anything happened."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="counter_slices")
    service_name = models.CharField(max_length=63)
    step = models.PositiveSmallIntegerField()
    """Seconds between two points: 10 or 300."""
    start = models.DateTimeField()
    packed = models.BinaryField()
    """zlib over JSON: `domain.counters.Slice.to_data()`."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["node", "service_name", "step", "start"], name="one_counter_slice_at_a_time"
            )
        ]
        indexes = [models.Index(fields=["step", "start"], name="counter_slices_by_age")]

    def __str__(self) -> str:
        return f"{self.service_name} on {self.node} from {self.start}"


class CounterTotal(models.Model):
    """All that a node counted of one backend of a service, or of one reason to refuse, since it was first
    seen.

    What samples that are not in slices yet hold comes on top.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="counter_totals")
    service_name = models.CharField(max_length=63)
    kind = models.CharField(max_length=8)
    """`backend` or `refusal`."""
    name = models.CharField(max_length=64)
    """Endpoint, or reason."""
    first_seen = models.DateTimeField()
    count = models.BigIntegerField(default=0)
    """New connections; of a refusal, packets."""
    packets = models.BigIntegerField(default=0)
    bytes = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["node", "service_name", "kind", "name"], name="one_counter_total_of_each"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.service_name} on {self.node}"
