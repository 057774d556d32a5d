"""The live configuration as rows: a projection of the cluster's live revision, for lists and searches."""

from django.db import models

from balancer.domain.types import AllDown, BackendState, Protocol, Scheduler, SourceNatMode
from balancer.models.choices import choices_of
from balancer.models.clusters import Cluster


class Service(models.Model):
    """A live virtual service. Written when a deployment has succeeded on every node, and then only."""

    cluster = models.ForeignKey(Cluster, on_delete=models.PROTECT, related_name="services")
    name = models.CharField(max_length=63)
    description = models.TextField(blank=True)
    enabled = models.BooleanField(default=True)
    critical = models.BooleanField(default=False)
    interface = models.CharField(max_length=15)
    address = models.GenericIPAddressField(null=True, blank=True)
    protocol = models.CharField(max_length=8, choices=choices_of(Protocol))
    port = models.PositiveIntegerField()
    port_end = models.PositiveIntegerField(null=True, blank=True)
    additional_ports = models.TextField(blank=True)
    """Texts such as `443` and `8000-8099`, with a blank between them; the two below are kept alike."""
    additional_addresses = models.TextField(blank=True)
    additional_interfaces = models.TextField(blank=True)
    from_node = models.BooleanField(default=False)
    scheduler = models.CharField(max_length=32, choices=choices_of(Scheduler))
    slow_start = models.PositiveIntegerField(default=0)
    source_nat_mode = models.CharField(max_length=16, choices=choices_of(SourceNatMode))
    source_nat_address = models.GenericIPAddressField(null=True, blank=True)
    source_nat_address_end = models.GenericIPAddressField(null=True, blank=True)
    source_nat_hairpin = models.BooleanField(default=False)
    persistence = models.JSONField(default=dict)
    access = models.JSONField(default=dict)
    health = models.JSONField(default=dict)
    all_down = models.CharField(max_length=16, choices=choices_of(AllDown))
    all_down_service = models.CharField(max_length=63, null=True, blank=True)  # noqa: DJ001 - the document's null
    healthy_min = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["cluster", "name"], name="service_name_once_per_cluster"),
            models.CheckConstraint(
                condition=models.Q(port__gte=1, port__lte=65535), name="service_port_in_range"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def interfaces(self) -> list[str]:
        return [self.interface, *self.additional_interfaces.split()]

    @property
    def addresses(self) -> list[str]:
        """None: any."""
        return [self.address, *self.additional_addresses.split()] if self.address else []

    @property
    def ports(self) -> list[str]:
        first = str(self.port) if self.port_end is None else f"{self.port}-{self.port_end}"
        return [first, *self.additional_ports.split()]


class Backend(models.Model):
    """One real server of a live service."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="backends")
    address = models.GenericIPAddressField()
    port = models.PositiveIntegerField()
    weight = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=16, choices=choices_of(BackendState))
    priority = models.IntegerField(default=0)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["service", "address", "port"], name="backend_once_per_service"),
            models.CheckConstraint(
                condition=models.Q(port__gte=1, port__lte=65535), name="backend_port_in_range"
            ),
            models.CheckConstraint(condition=models.Q(weight__gte=1), name="backend_weight_positive"),
        ]

    def __str__(self) -> str:
        return self.endpoint

    @property
    def endpoint(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
