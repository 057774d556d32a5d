"""A rehearsal: the ruleset that would be loaded, in a lab of its own, under real connections."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from balancer.domain.types import (
    Address,
    Document,
    Family,
    PersistenceMode,
    Protocol,
    Service,
    format_endpoint,
)
from balancer.lab.errors import GaveWay, LabError
from balancer.lab.judge import (
    FALSE_ALARMS,
    Counts,
    Expectation,
    choose_count,
    describe_success,
    find_strays,
    found_error,
    judge,
    measure_endpoints,
)
from balancer.lab.namespaces import NETNS_DIRECTORY
from balancer.lab.private import run_privately
from balancer.lab.rehearsal import Limits, Load, Loaded, Omitted, Rehearsal, ServiceResult
from balancer.lab.sample import DELETED, DISABLED, Fit, Sample, draw_sample, fit_lab
from balancer.lab.topology import Lab, missing_tools
from balancer.lab.traffic import Report, open_connections, send_datagrams
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.schedulers import promised_shares

Promised = Mapping[str, Mapping[str, Fraction]]
"""Service -> endpoint -> share of new connections."""
PREFIX = "rehearsal-"
_BATCHES = (16, 400)
"""The first and every further one: where a connection stays unanswered, the others would only take time."""
_CONCURRENCY = {Protocol.TCP: 16, Protocol.UDP: 64}
_TIMEOUT_SECONDS = 2.0
_LISTED = 5
_GRACE_SECONDS = 10.0
"""For clients that were begun just before the time was over."""


def rehearse(
    *,
    document: Document,
    load: Load,
    rulesets: Sequence[Ruleset] | None = None,
    promised: Promised | None = None,
    touched: Collection[str] | None = None,
    limits: Limits | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Rehearsal:
    """Load `rulesets` (left out: the compiled document) as a node would, and compare what real connections
    see with `promised` (left out: by weight). None for `touched` means every service.

    Needs root. Raises LabError when it cannot be rehearsed here; nothing of it is seen or left outside.
    `meanwhile` is called every two seconds, in the caller's thread; where it raises GaveWay, so does this,
    after the connections that are under way.
    """
    _refuse_impossible()
    limits = limits or Limits()
    started = time.monotonic()
    sample = draw_sample(document=document, touched=touched, limits=limits)
    work = _Work(
        document=document,
        sample=sample,
        promised=promised or {s.name: promised_shares(s) for s in document.services},
        limits=limits,
        deadline=started + limits.seconds,
    )
    wanted = tuple(rulesets) if rulesets is not None else compile_families(document)

    def keep_up() -> None:
        try:
            if meanwhile is not None:
                meanwhile()
        except GaveWay as reason:
            work.halted = reason

    loaded, services, late = run_privately(lambda: work.run(load=load, rulesets=wanted), meanwhile=keep_up)
    return _sum_up(
        loaded=loaded,
        services=services,
        omitted=(*sample.omitted, *late),
        late=late,
        touched=None if touched is None else frozenset(touched),
        seconds=time.monotonic() - started,
    )


def compile_families(document: Document) -> tuple[Ruleset, ...]:
    """IPv4, and IPv6 where the document has services of it."""
    families = {Family.IPV4, *(service.family for service in document.services)}
    return tuple(compile_document(document, family=family) for family in sorted(families))


def _refuse_impossible() -> None:
    if os.geteuid() != 0:
        raise LabError("A rehearsal makes network namespaces, which root only may. Run this with sudo.")
    missing = missing_tools()
    if missing:
        raise LabError(f"A rehearsal needs {', '.join(missing)}, which this machine lacks.")


class _Work:
    """One rehearsal while it goes on."""

    def __init__(
        self, *, document: Document, sample: Sample, promised: Promised, limits: Limits, deadline: float
    ) -> None:
        self._document, self._sample, self._promised = document, sample, promised
        self._limits, self._deadline = limits, deadline
        services = (*sample.measured, *sample.probed)
        self._fit: Fit = fit_lab(document=document, services=services)
        self._lab = Lab(prefix=PREFIX, **self._fit.lab)
        comparisons = sum(len(promised[s.name]) for s in sample.measured)
        self._chance = FALSE_ALARMS / max(1, comparisons)
        self.halted: GaveWay | None = None
        """Set by another thread, to stop this one."""

    def run(
        self, *, load: Load, rulesets: tuple[Ruleset, ...]
    ) -> tuple[Loaded, tuple[ServiceResult, ...], tuple[Omitted, ...]]:
        name = self._fit.balancer.name
        with self._lab as lab:
            place = NETNS_DIRECTORY / lab.namespace(machine=name)
            loaded = load(place, lab.directory, rulesets, self._document)
            if loaded.error is not None:
                return loaded, (), ()
            lab.listen(machine=name, tcp_ports=self._fit.own_tcp_ports, udp_ports=self._fit.own_udp_ports)
            # One message a second to each client would be too few to tell refused from lost.
            self._write_setting("net/ipv4/icmp_ratelimit", "0")
            if lab.topology.ipv6 is not None:
                self._write_setting("net/ipv6/icmp/ratelimit", "0")
            return loaded, *self._send_all()

    def _send_all(self) -> tuple[tuple[ServiceResult, ...], tuple[Omitted, ...]]:
        done: list[ServiceResult] = []
        late: list[Omitted] = []
        parts = ((self._sample.measured, True), (self._sample.probed, False))
        for service, touched in [(service, touched) for part, touched in parts for service in part]:
            if self.halted is not None:
                raise self.halted
            if time.monotonic() < self._deadline:
                result = self._send_to(service, touched=touched)
            else:
                reason = f"the rehearsal had taken {self._limits.seconds:.0f} s already"
                result = Omitted(name=service.name, touched=touched, reason=reason)
            if isinstance(result, Omitted):
                late.append(result)
            else:
                done.append(result)
        return tuple(done), tuple(late)

    def _send_to(self, service: Service, *, touched: bool) -> ServiceResult | Omitted:
        started = time.monotonic()
        shares = self._promised[service.name]
        count = self._limits.probes
        if touched:
            count = choose_count(
                service=service,
                shares=shares,
                chance=self._chance,
                limits=self._limits,
                measured=len(self._sample.measured),
            )
        expected = self._expect(service, judged=touched)
        counts = self._count(service, count=count)
        if counts.sent < count:
            # No whole cycles, and too few for a verdict on shares.
            expected = replace(expected, exact=False, chance=None)
        complaints = judge(expected=expected, counts=counts)
        if not complaints and counts.sent < count:
            return Omitted(
                name=service.name,
                touched=touched,
                reason=f"the time was over after {counts.sent} of {count} connections",
            )
        by_chance = expected.chance is not None and shares
        return ServiceResult(
            name=service.name,
            touched=touched,
            target=f"{service.protocol} {self._endpoint(service)} on {service.interface}",
            passed=not complaints,
            verdict=" ".join(complaints) or describe_success(expected=expected, counts=counts),
            sent=counts.sent,
            lost=counts.lost + (counts.refused if shares else 0),
            refused=counts.refused,
            endpoints=measure_endpoints(shares=shares, counts=counts),
            strays=find_strays(shares=shares, counts=counts),
            sources=counts.peers,
            finds=found_error(shares=shares, count=counts.sent, chance=self._chance) if by_chance else None,
            seconds=round(time.monotonic() - started, 3),
        )

    def _expect(self, service: Service, *, judged: bool) -> Expectation:
        # A client that comes again stays with its backend: the shares of connections say nothing then.
        judged = judged and service.persistence.mode is PersistenceMode.NONE
        exact = judged and service.scheduler == "round-robin"
        return Expectation(
            service=service,
            shares=self._promised[service.name],
            exact=exact,
            chance=self._chance if judged and not exact else None,
            own=frozenset({self._endpoint(service)}),
            balancer=str(self._own(service, self._fit.balancer.lan_interface)),
            clients=self._lab.topology.clients_of(service.family),
        )

    def _own(self, service: Service, interface: str) -> Address:
        """The balancer's, of the service's family."""
        name = self._fit.balancer.name
        return self._lab.address(balancer=name, interface=interface, family=service.family)

    def _address(self, service: Service) -> Address:
        return service.address or self._own(service, service.interface)

    def _endpoint(self, service: Service) -> str:
        return format_endpoint(address=self._address(service), port=service.port)

    def _count(self, service: Service, *, count: int) -> Counts:
        """Fewer than `count` where one was not answered, or where the time is over."""
        self._lead_clients(service)
        reports: list[Report] = []
        while (left := count - sum(report.sent for report in reports)) and not any(map(_unanswered, reports)):
            if self.halted is not None:
                raise self.halted
            if reports and time.monotonic() > self._deadline:
                break
            reports.append(self._send(service, count=min(left, _BATCHES[1 if reports else 0])))
        return _add_up(reports)

    def _send(self, service: Service, *, count: int) -> Report:
        send = open_connections if service.protocol is Protocol.TCP else send_datagrams
        return send(
            lab=self._lab,
            address=self._address(service),
            port=service.port,
            count=count,
            concurrency=_CONCURRENCY[service.protocol],
            timeout=_TIMEOUT_SECONDS,
            within=_GRACE_SECONDS + max(0.0, self._deadline - time.monotonic()),
        )

    def _lead_clients(self, service: Service) -> None:
        """An address may belong to services on several interfaces; clients come in by the one that is due."""
        if service.address is None:
            return
        way = self._own(service, service.interface)
        target = f"{service.address}/{service.address.max_prefixlen}"
        route = ["ip", "route", "replace", target, "via", str(way)]
        self._lab.run(machine="client", command=route)

    def _write_setting(self, key: str, value: str) -> None:
        command = ["sh", "-c", f"echo {value} > /proc/sys/{key}"]
        self._lab.run(machine=self._fit.balancer.name, command=command)


def _unanswered(report: Report) -> int:
    return report.lost_total - report.refused


def _add_up(reports: list[Report]) -> Counts:
    answered: Counter[str] = Counter()
    peers: Counter[str] = Counter()
    for report in reports:
        answered.update(report.answered)
        peers.update(report.peers)
    refused = sum(report.refused for report in reports)
    return Counts(
        sent=sum(report.sent for report in reports),
        answered=dict(sorted(answered.items())),
        peers=dict(sorted(peers.items())),
        refused=refused,
        lost=sum(map(_unanswered, reports)),
        slowest=max(report.slowest for report in reports),
    )


def _sum_up(
    *,
    loaded: Loaded,
    services: tuple[ServiceResult, ...],
    omitted: tuple[Omitted, ...],
    late: tuple[Omitted, ...],
    touched: frozenset[str] | None,
    seconds: float,
) -> Rehearsal:
    failed = [service.name for service in services if not service.passed]
    missing = [one.name for one in late if one.touched]
    unmeasured = _find_unmeasured(services=services, omitted=omitted, touched=touched)
    scope = _describe_scope(services=services, omitted=omitted, unmeasured=unmeasured)
    if loaded.error is not None:
        verdict = f"Failed: the ruleset was not loaded. {loaded.error}"
    elif failed:
        verdict = f"Failed: {', '.join(failed)} did not do what is promised. {scope}"
    elif missing:
        verdict = f"Failed: there was no time for {', '.join(missing)}. {scope}"
    else:
        verdict = f"Passed: {scope}"
    return Rehearsal(
        passed=loaded.error is None and not failed and not missing,
        verdict=verdict,
        loaded=loaded,
        services=services,
        omitted=tuple(sorted(omitted, key=lambda one: one.name)),
        unmeasured=unmeasured,
        seconds=seconds,
    )


def _find_unmeasured(
    *, services: tuple[ServiceResult, ...], omitted: tuple[Omitted, ...], touched: frozenset[str] | None
) -> tuple[Omitted, ...]:
    """What a pass says nothing about: a few probes do not show shares, and none show nothing."""
    found = [one for one in omitted if one.touched and one.reason not in {DELETED, DISABLED}]
    for service in services:
        if not service.touched and (touched is None or service.name in touched):
            reason = f"{service.sent} probes only, as others are in the sample"
            found.append(Omitted(name=service.name, touched=True, reason=reason))
    return tuple(sorted(found, key=lambda one: one.name))


def _describe_scope(
    *, services: tuple[ServiceResult, ...], omitted: tuple[Omitted, ...], unmeasured: tuple[Omitted, ...]
) -> str:
    measured = sum(service.touched for service in services)
    plural = "" if measured == 1 else "s"
    scope = (
        f"{measured} service{plural} measured, {len(services) - measured} probed, {len(omitted)} left out."
    )
    if not unmeasured:
        return scope
    listed = [f"{one.name} ({one.reason})" for one in unmeasured[:_LISTED]]
    more = [f"{len(unmeasured) - _LISTED} more"] if len(unmeasured) > _LISTED else []
    return f"{scope} Changed, but not measured: {', '.join([*listed, *more])}."
