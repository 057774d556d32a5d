"""Many live rows, for what shows lists."""

from balancer.models import Backend, Cluster, Service


def make_rows(cluster: Cluster, count: int, *, prefix: str = "s") -> None:
    """Live rows, straight into the table: what lists read, without a document of that size."""
    services = Service.objects.bulk_create(
        Service(
            cluster=cluster,
            name=f"{prefix}{i:05}",
            interface="eth0",
            protocol="tcp",
            port=i % 65535 + 1,
            scheduler="round-robin",
            source_nat_mode="masquerade",
            persistence={"mode": "none", "timeout": 300},
            access={},
            health={},
            all_down="keep",
        )
        for i in range(count)
    )
    Backend.objects.bulk_create(
        Backend(service=service, address=f"10.0.0.{last}", port=80, weight=1, state="enabled")
        for service in services
        for last in (3, 4, 5, 6)
    )
