"""How many connections each backend of a service has now. Reads only."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from balancer.domain.types import Service, format_endpoint
from balancer.kernel.base import Loads
from balancer.kernel.conntrack import Flows, count_entries
from balancer.kernel.owning import PortIndex, nearest

_ALIVE = {"", "ESTABLISHED"}
"""Of UDP, which knows no states, every entry."""
_OVER = {"TIME_WAIT", "LAST_ACK", "CLOSE"}
"""Of TCP: both ends have closed, or one was reset. SCTP's CLOSED, which lasts 10 seconds, is no such state:
an association whose first packet is not answered yet has it too."""


def count_loads(services: Iterable[Service]) -> Loads:
    """Established connections that were balanced. Raises KernelError where they cannot be counted."""
    return _count(services, counts=_ALIVE.__contains__)


def count_open(services: Iterable[Service]) -> Loads:
    """The same of all that are not over, those that begin and those that one end has closed included.

    What came in for a service may be with a backend of one that stands in for it: it counts there as well,
    where both are among the services.
    """
    return _count(services, counts=lambda state: state not in _OVER, follow=True)


def _count(services: Iterable[Service], *, counts: Callable[[str], bool], follow: bool = False) -> Loads:
    services = tuple(services)
    found: dict[str, Counter[str]] = {service.name: Counter() for service in services}
    for protocol, family in sorted({(s.protocol, s.family) for s in services}):
        entries = count_entries(protocol=protocol, family=family)
        concerned = [s for s in services if (s.protocol, s.family) == (protocol, family)]
        for name, endpoint, count in attribute(entries, concerned, counts=counts, follow=follow):
            found[name][endpoint] += count
    return found


def attribute(
    entries: Mapping[tuple[Flows, str], int],
    services: Iterable[Service],
    *,
    counts: Callable[[str], bool] = _ALIVE.__contains__,
    follow: bool = False,
) -> Iterable[tuple[str, str, int]]:
    """(service, backend, connections), of services of one protocol and family, in the states that count.

    The interface is not in a conntrack entry: what two services could own counts for both.
    """
    services = tuple(services)
    index, named = PortIndex(services), {s.name: s for s in services} if follow else {}
    for (flows, state), count in entries.items():
        if not counts(state) or not flows.is_balanced:
            continue
        covering = [
            service
            for service in index.at(flows.protocol, flows.port)
            if not service.addresses or flows.address in service.addresses
        ]
        for service in nearest(covering):
            for taking in _taking(service, named):
                yield taking.name, _endpoint(taking, flows), count


def _taking(service: Service, named: Mapping[str, Service]) -> Iterator[Service]:
    """The service, and those that stand in for it. Validation lets none stand in for itself in the end."""
    at: Service | None = service
    while at is not None:
        yield at
        at = named.get(at.all_down_service or "")


def _endpoint(service: Service, flows: Flows) -> str:
    """The one that names the backend: where `port` itself is sent. One port alone gets all that comes."""
    one = service.span.first == service.span.last
    port = flows.answered_port if one else flows.answered_port - flows.port + service.port
    return format_endpoint(address=flows.answered_by, port=port)
