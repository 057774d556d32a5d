"""Does each service answer through the node? Real connections that come in like a client's."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Network, IPv6Network

from balancer.domain.limits import scheduled
from balancer.domain.types import (
    Address,
    Backend,
    Document,
    Family,
    Network,
    Service,
    SourceNatMode,
    format_endpoint,
)
from balancer.probes import words
from balancer.probes.base import ProbeError, ServiceProbe
from balancer.probes.connect import Attempt, Tally, connect_all
from balancer.probes.doors import (
    Door,
    attempts_for,
    is_bound,
    is_let_in,
    is_limited,
    is_one_of,
    is_shared,
    join,
    keeps_clients,
    list_doors,
    may_answer,
)
from balancer.probes.machine import (
    STRICT,
    Link,
    free_addresses,
    read_links,
    reverse_path_filter,
    who_answers,
)
from balancer.probes.memory import forget
from balancer.probes.sample import draw_sample
from balancer.probes.way import Entrance, Way
from balancer.ruleset.schedulers import promised_shares

DEFAULT_NETWORKS: Mapping[Family, Network] = {
    Family.IPV4: IPv4Network("198.18.0.0/15"),
    Family.IPV6: IPv6Network("2001:2::/48"),
}
"""RFC 2544, RFC 5180: for benchmarks inside one's own network, so nobody's real addresses."""
SETTINGS = {Family.IPV4: "LBADMIN_PROBE_NETWORK", Family.IPV6: "LBADMIN_PROBE_NETWORK_IPV6"}
SECONDS_MAX = 10.0
ATTEMPTS_MAX = 64
_ATTEMPTS_BOUND = 4
"""Where further attempts meet the same backend again."""
_OWN = "own "
_UNLUCKY = 0.01
"""Silence of less than this chance, where the backends that are up answer their share, is no bad luck."""
_DIRECT_PART, _LAYING_SECONDS = 0.3, 1.0


def probe_services(
    *,
    document: Document,
    services: Collection[str],
    ensure_allowed: Callable[[], None],
    timeout: float = 5.0,
    network: IPv4Network | None = None,
    network_ipv6: IPv6Network | None = None,
) -> tuple[ServiceProbe, ...]:
    """A result for each of `services`, sorted by name; of more than 50, of a sample, and one about the rest.

    Stands in the node's network namespace and needs root. `ensure_allowed` refuses, with an exception of its
    own, where links must not be made (the namespace of PID 1, unless it is meant). It takes at most `timeout`
    seconds, which is 10 at most, and leaves nothing behind, however it ends.
    """
    ensure_allowed()
    networks = {
        Family.IPV4: network or DEFAULT_NETWORKS[Family.IPV4],
        Family.IPV6: network_ipv6 or DEFAULT_NETWORKS[Family.IPV6],
    }
    deadline = time.monotonic() + min(timeout, SECONDS_MAX)
    known = {service.name: service for service in document.services}
    results = [_unasked(name, words.why_not_asked(known.get(name))) for name in services]
    sample, left_out = draw_sample(known[r.service] for r in results if not r.text)
    found = [*(r for r in results if r.text), *_Probe(sample, networks=networks, deadline=deadline).run()]
    if left_out:
        found.append(_unasked("", words.left_out(asked=len(sample), left_out=left_out)))
    return tuple(sorted(found, key=lambda result: result.service))


def _unasked(name: str, text: str, *, up: int = 0) -> ServiceProbe:
    return ServiceProbe(service=name, passed=None, text=text, backends_up=up)


class _Probe:
    """One round over services that can be asked, each at all of its doors."""

    def __init__(
        self, services: Collection[Service], *, networks: Mapping[Family, Network], deadline: float
    ) -> None:
        self._services, self._networks, self._deadline = services, networks, deadline
        self._doors = [door for service in services for door in list_doors(service)]
        self._links: Mapping[str, Link] = {}
        self._direct: dict[str, Tally] = {}

    def run(self) -> list[ServiceProbe]:
        if not self._services:
            return []
        try:
            self._links = read_links()
        except ProbeError as error:
            return [_unasked(s.name, words.not_made(s, why=str(error), up=())) for s in self._services]
        self._ask_directly()
        done = {d.key: result for d in self._doors if (result := self._judge_before(d)) is not None}
        done |= self._come_in([door for door in self._doors if door.key not in done])
        by_service: dict[str, list[ServiceProbe]] = defaultdict(list)
        for door in self._doors:
            by_service[door.service.name].append(done[door.key])
        return [join(results) for results in by_service.values()]

    def _ask_directly(self) -> None:
        """All backends, the first of each service first, and whether the node itself listens there."""
        ranked = [
            (rank, str(backend.address), backend.port, backend.endpoint)
            for service in self._services
            for rank, backend in enumerate(scheduled(service), start=1)
        ]
        ranked += [
            (0, str(target), port, f"{_OWN}{format_endpoint(address=target, port=port)}")
            for door in self._doors
            if (target := self._target(door)) is not None
            for port in [door.service.port]
        ]
        unique = {entry[3]: entry for entry in sorted(ranked, reverse=True)}
        attempts = [Attempt(key=k, address=a, port=p) for _, a, p, k in sorted(unique.values())]
        self._direct = connect_all(attempts, seconds=(self._deadline - time.monotonic()) * _DIRECT_PART)

    def _target(self, door: Door) -> Address | None:
        """The service's address or, without one, an address of the machine, the interface's own first."""
        if door.address is not None:
            return door.address
        interface, family = door.entrance
        links = [self._links[interface]] if interface in self._links else []
        links += self._links.values()
        return next((a for link in links for a in link.addresses_of(family)), None)

    def _up(self, service: Service) -> tuple[str, ...]:
        return tuple(b.endpoint for b in scheduled(service) if self._accepts(b.endpoint))

    def _accepts(self, key: str) -> bool:
        return key in self._direct and self._direct[key].accepted

    def _judge_before(self, door: Door) -> ServiceProbe | None:
        """What can be said without a connection through the node."""
        service, up = door.service, self._up(door.service)
        network = self._networks[service.family]
        if not is_let_in(service, network):
            text = words.not_let_in(service, network=network, setting=SETTINGS[service.family])
            return _unasked(service.name, text, up=len(up))
        if not up:
            return _unasked(service.name, words.no_backend_up(service))
        link = self._links.get(service.interface)
        why = words.why_unreachable(service, link=link, target=self._target(door))
        if why:
            return ServiceProbe(service=service.name, passed=False, text=why, backends_up=len(up))
        if service.family is Family.IPV4 and reverse_path_filter(service.interface) == STRICT:
            text = words.not_made(service, why=words.strict_filter(service), up=up)
            return _unasked(service.name, text, up=len(up))
        return None

    def _come_in(self, doors: Collection[Door]) -> dict[str, ServiceProbe]:
        """By the key of the door."""
        if not doors:
            return {}
        try:
            sources = self._choose_sources(doors)
            with Way(sources=sources) as way:
                self._forget(doors, sources)
                seconds = self._deadline - _LAYING_SECONDS - time.monotonic()
                try:
                    tallies = way.connect(attempts=self._attempts(doors), seconds=max(0.5, seconds))
                finally:
                    self._forget(doors, sources)
                return {d.key: self._judge(d, tallies[d.key], source=sources[d.entrance]) for d in doors}
        except ProbeError as error:
            return {
                d.key: _unasked(d.service.name, words.not_made(d.service, why=str(error), up=up), up=len(up))
                for d in doors
                for up in [self._up(d.service)]
            }

    def _choose_sources(self, doors: Collection[Door]) -> dict[Entrance, Address]:
        taken = {b.address for s in self._services for b in s.backends}
        taken |= {target for d in self._doors if (target := self._target(d)) is not None}
        found: dict[Entrance, Address] = {}
        for family, network in self._networks.items():
            entrances = sorted({door.entrance for door in doors if door.service.family is family})
            if entrances:
                free = free_addresses(
                    network=network, count=len(entrances), taken=taken, setting=SETTINGS[family]
                )
                found |= zip(entrances, free, strict=True)
        return found

    def _forget(self, doors: Collection[Door], sources: Mapping[Entrance, Address]) -> None:
        """Before, as a probe that was killed may have left its address, and after."""
        for door in doors:
            service = door.service
            if keeps_clients(service) and not is_shared(service, self._networks[service.family]):
                forget(service, source=sources[door.entrance])

    def _attempts(self, doors: Collection[Door]) -> dict[Entrance, list[Attempt]]:
        """By the way in; a service that has backends down gets as many as may be needed."""
        attempts: dict[Entrance, list[Attempt]] = defaultdict(list)
        for door in doors:
            one = Attempt(key=door.key, address=str(self._target(door)), port=door.service.port)
            most = _ATTEMPTS_BOUND if is_bound(door.service) else ATTEMPTS_MAX
            count = attempts_for(door.service, most=most)
            attempts[door.entrance] += [one] * count
        return attempts

    def _judge(self, door: Door, tally: Tally, *, source: Address) -> ServiceProbe:
        service, up, address = door.service, self._up(door.service), self._target(door)
        assert address is not None
        target = format_endpoint(address=address, port=service.port)
        by = who_answers(source=source, source_port=tally.local_port, address=str(address), port=service.port)
        judge = self._judge_answer if tally.accepted else self._judge_silence
        passed, text = judge(service, tally, target=target, by=by, source=source)
        return ServiceProbe(
            service=service.name,
            passed=passed,
            text=text,
            milliseconds=tally.milliseconds,
            backends_up=len(up),
        )

    def _judge_answer(
        self, service: Service, tally: Tally, *, target: str, by: str | None, source: Address
    ) -> tuple[bool | None, str]:
        if by is None and self._accepts(f"{_OWN}{target}"):
            return None, words.perhaps_own(service, target=target)
        right = may_answer(service, source=source, network=self._networks[service.family])
        if by is not None and not is_one_of(by, right, service=service):
            return False, words.answered_by_other(service, target=target, by=by, right=right, source=source)
        return True, words.answered(service, target=target, tally=tally, by=by, up=self._up(service))

    def _judge_silence(
        self, service: Service, tally: Tally, *, target: str, by: str | None, source: Address
    ) -> tuple[bool | None, str]:
        up, network = self._up(service), self._networks[service.family]
        right = may_answer(service, source=source, network=network)
        if self._may_be_chance(service, tally, up=up, right=right):
            return None, words.too_few_up(service, target=target, tally=tally, up=up)
        if is_limited(service) and by is None:
            return None, words.perhaps_limited(service, target=target)
        sent = by is not None and is_one_of(by, right, service=service)
        if service.source_nat.mode is SourceNatMode.NONE and by is not None and sent:
            # The entry is confirmed (nf_conntrack_confirm), so the packet went out. A node that is not the
            # way back of its backends, the spare one of two for instance, will never see an answer.
            setting = SETTINGS[service.family]
            return None, words.no_way_back(service, target=target, by=by, network=network, setting=setting)
        return False, words.silent(service, target=target, tally=tally, up=up)

    def _may_be_chance(
        self, service: Service, tally: Tally, *, up: Collection[str], right: Collection[Backend]
    ) -> bool:
        """Whether backends that are down may be all that the probe met."""
        if is_bound(service):
            return any(backend.endpoint not in up for backend in right)
        shares = promised_shares(service)
        share_up = float(sum(shares[endpoint] for endpoint in up))
        return (1 - share_up) ** tally.tried > _UNLUCKY
