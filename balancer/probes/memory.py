"""Services with persistence remember the probe as they do any client; it makes them forget it again."""

from collections.abc import Iterable

from balancer.domain.types import Address, Family, Service
from balancer.probes.base import ProbeError
from balancer.probes.machine import run
from balancer.ruleset import names
from balancer.ruleset.service import KNOWN_LIST_MAX, client_sets, group_of, keepers, prefix_of


def forget(service: Service, *, source: Address) -> None:
    """Takes the source out of the service's sets of clients. Where that fails, it stays for the timeout."""
    lines = [f"del {name} {source}" for name in _sets(service)]
    try:
        run(["ipset", "restore", "-exist"], lines=lines, check=False)
    except ProbeError:
        return


def _sets(service: Service) -> Iterable[str]:
    keep, version = keepers(service), 6 if service.family is Family.IPV6 else 4
    yield from client_sets(service)
    if len(keep) > KNOWN_LIST_MAX:
        for group in sorted({group_of(backend) for backend in keep}):
            yield names.client_group_set(service.name, prefix_of(service), version, group)
