"""What the next sync will do to connections that were observed: `conntrack.find_stale`, asked beforehand.

Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from balancer.domain.observation import ConnectionCount, Observation
from balancer.domain.types import (
    Address,
    BackendState,
    Document,
    Family,
    PortRange,
    Protocol,
    Service,
    format_endpoint,
)
from balancer.kernel.conntrack import Flows, find_stale
from balancer.kernel.owning import nearest
from balancer.ruleset.compile import MARK_BALANCED

Services = Mapping[str, Service | None]
"""Name -> service; None where there is none."""


class Fate(StrEnum):
    STAY = "stay"
    """The backend stays, or drains: its connections live on."""
    CUT = "cut"
    """The backend is disabled: its TCP connections are cut."""
    STAY_UNTIL_THEY_END = "stay-until-they-end"
    """Backend or service goes: TCP connections that are there live on, new ones go elsewhere."""
    FLUSHED = "flushed"
    """UDP flows are forgotten: the client's next datagram goes where the new rules send it."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Group:
    """Connections of one service with one backend that share a fate."""

    service: str
    backend: str
    """Its endpoint. Empty: UDP clients that talk to the machine itself, from before the service was there."""
    protocol: Protocol
    fate: Fate


def count_fates(
    *,
    before: Services,
    after: Services,
    others: Iterable[Service],
    seen: Observation | None,
    local_addresses: frozenset[Address],
) -> dict[Group, int]:
    """How many connections of the services in `before` and `after` meet which fate.

    `others` are the services that stay as they are. A backend that a service has now is there with 0 where
    nobody uses it. Without an observation all that is known are the groups; the numbers are then 0 and mean
    nothing. An entry does not tell the client's interface, so what two services could own counts for both.
    """
    plan = _Plan.of(before=before, after=after, others=others)
    counts = seen.connections if seen is not None else ()
    found = [(name, _flows(count), count.established) for count in counts for name in plan.owners(count)]
    # Flows to the machine itself were to an address that it had at that moment.
    local = local_addresses | {count.address for count in counts if not count.backend}
    used = {(name, _backend(flows)) for name, flows, _ in found}
    found += [(name, flows, 0) for name, flows in plan.expected() if (name, _backend(flows)) not in used]
    fates = plan.fates({flows for _, flows, _ in found}, local_addresses=local)
    groups: dict[Group, int] = defaultdict(int)
    for name, flows, number in found:
        group = Group(service=name, backend=_backend(flows), protocol=flows.protocol, fate=fates[flows])
        groups[group] += number
    if seen is None:
        groups |= {group: 0 for group in plan.newcomers()}
    return dict(groups)


_Place = tuple[Protocol, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What one enabled service has at a place."""

    service: Service
    states: Mapping[str, BackendState]
    """Endpoint -> state."""

    @property
    def name(self) -> str:
        return self.service.name

    def covers(self, address: Address) -> bool:
        if self.service.addresses:
            return address in self.service.addresses
        return _any_address(self.service.family).version == address.version


_Claims = Mapping[_Place, list[_Claim]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    before: Mapping[str, Service]
    after: Mapping[str, Service]
    """Both: the enabled ones of the services that the question is about."""
    document: Document
    """All services as they will be."""
    touched: _Claims
    """As they are and as they will be."""
    untouched: _Claims
    coming: _Claims
    """As they will be."""

    @classmethod
    def of(cls, *, before: Services, after: Services, others: Iterable[Service]) -> "_Plan":
        was = {name: s for name, s in before.items() if s is not None and s.enabled}
        will = {name: s for name, s in after.items() if s is not None and s.enabled}
        kept = tuple(others)
        return cls(
            before=was,
            after=will,
            document=Document(services=(*kept, *will.values())),
            touched=_claims([*was.values(), *will.values()]),
            untouched=_claims(kept),
            coming=_claims(will.values()),
        )

    @property
    def names(self) -> set[str]:
        return {*self.before, *self.after}

    def owners(self, count: ConnectionCount) -> list[str]:
        """The touched services to which these connections may belong."""
        place = count.protocol, count.port
        if not count.backend:
            return sorted({claim.name for claim in _covering((self.coming,), place, count.address)})
        found = _covering((self.touched, self.untouched), place, count.address)
        covering = [claim for claim in found if claim.name in self.names]
        mine = {claim.name for claim in covering if count.backend in claim.states}
        if not mine and any(count.backend in claim.states for claim in found):
            return []
        # Otherwise of a backend that went earlier: such a connection lives until it ends.
        return sorted(mine or {claim.name for claim in covering})

    def expected(self) -> Iterator[tuple[str, Flows]]:
        """One connection to each backend that a service has now."""
        for name, service in self.before.items():
            for backend in service.backends:
                yield (
                    name,
                    Flows(
                        protocol=service.protocol,
                        address=service.address or _any_address(service.family),
                        port=service.port,
                        answered_by=backend.address,
                        answered_port=backend.port,
                        mark=MARK_BALANCED,
                    ),
                )

    def newcomers(self) -> Iterator[Group]:
        """UDP services at a place of their own that is new: somebody may be talking to the machine there."""
        for name, service in self.after.items():
            if service.protocol is Protocol.UDP and _place_of(self.before.get(name)) != _place_of(service):
                yield Group(service=name, backend="", protocol=Protocol.UDP, fate=Fate.FLUSHED)

    def fates(self, flows: set[Flows], *, local_addresses: frozenset[Address]) -> dict[Flows, Fate]:
        stale: set[Flows] = set()
        for family in Family:
            mine = [flow for flow in flows if flow.address.version == _any_address(family).version]
            stale |= set(
                find_stale(mine, document=self.document, family=family, local_addresses=local_addresses)
            )
        return {flow: self._fate(flow, is_stale=flow in stale) for flow in flows}

    def _fate(self, flow: Flows, *, is_stale: bool) -> Fate:
        if is_stale:
            return Fate.FLUSHED if flow.protocol is Protocol.UDP else Fate.CUT
        if flow.protocol is Protocol.UDP:
            return Fate.STAY
        place = flow.protocol, flow.port
        claims = _covering((self.coming, self.untouched), place, flow.address)
        states = {claim.states.get(_backend(flow), BackendState.DISABLED) for claim in claims}
        return Fate.STAY if states - {BackendState.DISABLED} else Fate.STAY_UNTIL_THEY_END


def _claims(services: Iterable[Service]) -> _Claims:
    places: dict[_Place, list[_Claim]] = defaultdict(list)
    for service in services:
        if not service.enabled:
            continue
        for ports in service.port_ranges:
            for port in range(ports.first, ports.last + 1):
                places[service.protocol, port].append(_claim(service, port))
    return places


def _claim(service: Service, port: int) -> _Claim:
    return _Claim(
        service=service,
        states={
            format_endpoint(address=b.address, port=service.backend_port(b, port)): b.state
            for b in service.backends
        },
    )


def _covering(among: tuple[_Claims, ...], place: _Place, address: Address) -> list[_Claim]:
    found = [claim for claims in among for claim in claims.get(place, ()) if claim.covers(address)]
    near = nearest([claim.service for claim in found])
    return [claim for claim in found if any(claim.service is service for service in near)]


_Where = tuple[Family, Protocol, tuple[PortRange, ...], tuple[Address, ...]]


def _place_of(service: Service | None) -> _Where | None:
    if service is None:
        return None
    return service.family, service.protocol, service.port_ranges, service.addresses


def _flows(count: ConnectionCount) -> Flows:
    answered_by, answered_port = count.address, count.port
    if count.backend:
        host, _, port = count.backend.rpartition(":")
        answered_by, answered_port = ip_address(host.strip("[]")), int(port)
    return Flows(
        protocol=count.protocol,
        address=count.address,
        port=count.port,
        answered_by=answered_by,
        answered_port=answered_port,
        mark=MARK_BALANCED if count.backend else 0,
    )


def _backend(flows: Flows) -> str:
    if not flows.is_translated:
        return ""
    return format_endpoint(address=flows.answered_by, port=flows.answered_port)


def _any_address(family: Family) -> Address:
    return IPv6Address(0) if family is Family.IPV6 else IPv4Address(0)
