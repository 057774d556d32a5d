"""How many connections each backend of a service has now. Reads only."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from balancer.domain.types import Service, format_endpoint
from balancer.kernel.base import Loads
from balancer.kernel.conntrack import Flows, PortIndex, count_entries

_ALIVE = {"", "ESTABLISHED"}
"""Of UDP, which knows no states, every entry."""
_OVER = {"TIME_WAIT", "LAST_ACK", "CLOSE"}
"""Of TCP: both ends have closed, or one was reset. SCTP's CLOSED, which lasts 10 seconds, is no such state:
an association whose first packet is not answered yet has it too."""


def count_loads(services: Iterable[Service]) -> Loads:
    """Established connections that were balanced. Raises KernelError where they cannot be counted."""
    return _count(services, counts=_ALIVE.__contains__)


def count_open(services: Iterable[Service]) -> Loads:
    """The same of all that are not over, those that begin and those that one end has closed included."""
    return _count(services, counts=lambda state: state not in _OVER)


def _count(services: Iterable[Service], *, counts: Callable[[str], bool]) -> Loads:
    services = tuple(services)
    found: dict[str, Counter[str]] = {service.name: Counter() for service in services}
    for protocol, family in sorted({(s.protocol, s.family) for s in services}):
        entries = count_entries(protocol=protocol, family=family)
        concerned = [s for s in services if (s.protocol, s.family) == (protocol, family)]
        for name, endpoint, count in attribute(entries, concerned, counts=counts):
            found[name][endpoint] += count
    return found


def attribute(
    entries: Mapping[tuple[Flows, str], int],
    services: Iterable[Service],
    *,
    counts: Callable[[str], bool] = _ALIVE.__contains__,
) -> Iterable[tuple[str, str, int]]:
    """(service, backend, connections), of services of one protocol and family, in the states that count.

    The interface is not in a conntrack entry: what two services could own counts for both.
    """
    index = PortIndex(services)
    for (flows, state), count in entries.items():
        if not counts(state) or not flows.is_balanced:
            continue
        for service in index.at(flows.protocol, flows.port):
            if not service.addresses or flows.address in service.addresses:
                # Back to where `port` itself would have been sent: the endpoint that names the backend.
                port = flows.answered_port - flows.port + service.port
                yield service.name, format_endpoint(address=flows.answered_by, port=port), count
