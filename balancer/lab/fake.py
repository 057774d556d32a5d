"""A rehearsal in memory: the tracer stands in for the connections. Same contract as the real one."""

from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from ipaddress import ip_address

from balancer.domain.codec import digest_text
from balancer.domain.digests import join_digests
from balancer.domain.types import (
    Document,
    Family,
    Protocol,
    Scheduler,
    Service,
    SourceNat,
    SourceNatMode,
)
from balancer.lab.errors import LabError
from balancer.lab.places import Place, list_places
from balancer.lab.rehearsal import EndpointResult, Loaded, Omitted, Rehearsal, ServiceResult
from balancer.lab.sample import NO_SCTP
from balancer.lab.summary import describe_places
from balancer.lab.visit import known_endpoint
from balancer.ruleset.access import let_everybody_in
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.matching import Packet
from balancer.ruleset.render import render_pool, render_ruleset
from balancer.ruleset.schedulers import promised_shares
from balancer.ruleset.targets import Snat
from balancer.ruleset.trace import Trace, trace_packet

_CLIENT = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:2:0:1::1")}
_OWN = {Family.IPV4: ip_address("198.18.2.1"), Family.IPV6: ip_address("2001:2:0:2::1")}
_SENT = 400


class FakeRehearsals:
    """Callable as a worker's own way to rehearse. `fail_next` is raised by the next call; `before_end` is
    called when all is measured and nothing told yet."""

    def __init__(self, *, flavour: str = "nft", driver: str = "iptables-restore") -> None:
        self.flavour, self.driver = flavour, driver
        self.fail_next: Exception | None = None
        self.kernel_error: str | None = None
        self.spoil: Callable[[Ruleset], Ruleset] = lambda ruleset: ruleset
        self.before_end: Callable[[], None] = lambda: None
        self.touched: list[tuple[str, ...]] = []
        """Of each call, sorted."""

    def __call__(
        self,
        *,
        document: Document,
        rulesets: Sequence[Ruleset],
        touched: Collection[str],
        meanwhile: Callable[[], None] | None = None,
    ) -> Rehearsal:
        self.touched.append(tuple(sorted(touched)))
        error, self.fail_next = self.fail_next, None
        if error is not None:
            raise error
        if meanwhile is not None:
            meanwhile()
        result = self._measure(document=document, rulesets=list(map(self.spoil, rulesets)), touched=touched)
        self.before_end()
        return result

    def _measure(
        self, *, document: Document, rulesets: Sequence[Ruleset], touched: Collection[str]
    ) -> Rehearsal:
        digests = [digest_text(render_ruleset(ruleset)) for ruleset in rulesets]
        digest = "" if self.kernel_error else join_digests(digests)
        by_family = {ruleset.family: let_everybody_in(ruleset) for ruleset in rulesets}
        able = [s for s in document.services if s.enabled and not self.kernel_error]
        services = tuple(
            _judge(s, traces=_trace(by_family[s.family], s), touched=s.name in touched)
            for s in sorted(able, key=lambda s: (s.name not in touched, s.name))
            if s.protocol is not Protocol.SCTP
        )
        omitted = tuple(
            Omitted(name=s.name, touched=s.name in touched, reason=NO_SCTP)
            for s in able
            if s.protocol is Protocol.SCTP
        )
        failed = [service.name for service in services if not service.passed]
        verdict = f"Passed: {len(services)} services traced."
        if self.kernel_error:
            verdict = f"Failed: the ruleset was not loaded. {self.kernel_error}"
        elif failed:
            verdict = f"Failed: {', '.join(failed)} did not do what is promised."
        return Rehearsal(
            passed=not failed and not self.kernel_error,
            verdict=verdict,
            loaded=Loaded(error=self.kernel_error, flavour=self.flavour, driver=self.driver, digest=digest),
            services=services,
            omitted=omitted,
            unmeasured=tuple(one for one in omitted if one.touched),
            seconds=0.0,
        )


def unable(message: str = "A rehearsal needs ip, which this machine lacks.") -> LabError:
    """What a machine raises on which nothing can be rehearsed."""
    return LabError(message)


def _trace(ruleset: Ruleset, service: Service) -> list[tuple[Place, Trace]]:
    """Of every place; by source-hash for any client."""
    any_client = service.scheduler is Scheduler.SOURCE_HASH
    return [
        (
            place,
            trace_packet(
                ruleset,
                Packet(
                    interface=place.interface,
                    protocol=service.protocol,
                    source=None if any_client else _CLIENT[service.family],
                    destination=place.address,
                    port=place.port,
                ),
            ),
        )
        for place in list_places(service, own=lambda _: _OWN[service.family])
    ]


def _judge(service: Service, *, traces: Sequence[tuple[Place, Trace]], touched: bool) -> ServiceResult:
    shares = promised_shares(service)
    found = [_known_shares(service, place, trace) for place, trace in traces]
    wrong = [
        f"{end} got {met.get(end, Fraction(0)) * _SENT} of {_SENT} connections, where"
        f" {share * _SENT} are promised."
        for met in found
        for end, share in shares.items()
        if met.get(end, Fraction(0)) != share
    ]
    if shares and not all(_is_promised_source(service.source_nat, trace) for _, trace in traces):
        wrong.append("Backends saw another source address than is promised.")
    if not shares and any(trace.refused != 1 for _, trace in traces):
        wrong.append("Connections were not refused, where all must be.")
    (_, trace), measured = traces[0], found[0]
    seen = trace.rewritten_to or str((_OWN if trace.masqueraded else _CLIENT)[service.family])
    lost = (1 - sum(trace.shares.values(), Fraction(0))) * _SENT if shares else Fraction(0)
    return ServiceResult(
        name=service.name,
        touched=touched,
        target=f"{service.protocol} {describe_places([place for place, _ in traces])}",
        passed=not wrong,
        verdict=" ".join(dict.fromkeys(wrong)) or f"{_SENT} connections, exactly as promised.",
        sent=_SENT,
        lost=int(lost),
        refused=int(trace.refused * _SENT),
        endpoints=tuple(
            EndpointResult(
                endpoint=end,
                promised=share,
                expected=float(share * _SENT),
                measured=int(measured.get(end, Fraction(0)) * _SENT),
            )
            for end, share in shares.items()
        ),
        strays={},
        sources={seen: _SENT} if shares else {},
        finds=None,
        seconds=0.0,
    )


def _known_shares(service: Service, place: Place, trace: Trace) -> dict[str, Fraction]:
    """By the endpoints of the service, wherever a port was moved for the place."""
    return {known_endpoint(end, service=service, place=place): share for end, share in trace.shares.items()}


def _is_promised_source(nat: SourceNat, trace: Trace) -> bool:
    if nat.mode is SourceNatMode.SNAT and nat.address is not None:
        return trace.rewritten_to == render_pool(Snat(nat.address, nat.address_end))
    return trace.rewritten_to is None and trace.masqueraded is (nat.mode is SourceNatMode.MASQUERADE)
