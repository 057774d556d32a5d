"""A rehearsal in memory: the tracer stands in for the connections. Same contract as the real one."""

from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from ipaddress import ip_address

from balancer.domain.codec import digest_text
from balancer.domain.digests import join_digests
from balancer.domain.types import Document, Family, Service, SourceNatMode, format_endpoint
from balancer.lab.errors import LabError
from balancer.lab.rehearsal import EndpointResult, Loaded, Rehearsal, ServiceResult
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.schedulers import promised_shares
from balancer.ruleset.trace import Packet, Trace, trace_packet

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
        by_family = {ruleset.family: ruleset for ruleset in rulesets}
        services = tuple(
            _judge(service, trace=_trace(by_family[service.family], service), touched=service.name in touched)
            for service in sorted(document.services, key=lambda s: (s.name not in touched, s.name))
            if service.enabled and not self.kernel_error
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
            omitted=(),
            unmeasured=(),
            seconds=0.0,
        )


def unable(message: str = "A rehearsal needs ip, which this machine lacks.") -> LabError:
    """What a machine raises on which nothing can be rehearsed."""
    return LabError(message)


def _trace(ruleset: Ruleset, service: Service) -> Trace:
    packet = Packet(
        interface=service.interface,
        protocol=service.protocol,
        source=_CLIENT[service.family],
        destination=service.address or _OWN[service.family],
        port=service.port,
    )
    return trace_packet(ruleset, packet)


def _judge(service: Service, *, trace: Trace, touched: bool) -> ServiceResult:
    shares = promised_shares(service)
    masquerade = service.source_nat.mode is SourceNatMode.MASQUERADE
    wrong = [
        f"{end} got {trace.shares.get(end, Fraction(0)) * _SENT} of {_SENT} connections, where"
        f" {share * _SENT} are promised."
        for end, share in shares.items()
        if trace.shares.get(end, Fraction(0)) != share
    ]
    if shares and trace.masqueraded != masquerade:
        wrong.append("Backends saw another source address than is promised.")
    if not shares and trace.refused != 1:
        wrong.append("Connections were not refused, where all must be.")
    target = format_endpoint(address=service.address or _OWN[service.family], port=service.port)
    seen = _OWN if trace.masqueraded else _CLIENT
    lost = (1 - sum(trace.shares.values(), Fraction(0))) * _SENT if shares else Fraction(0)
    return ServiceResult(
        name=service.name,
        touched=touched,
        target=f"{service.protocol} {target} on {service.interface}",
        passed=not wrong,
        verdict=" ".join(wrong) or f"{_SENT} connections, exactly as promised.",
        sent=_SENT,
        lost=int(lost),
        refused=int(trace.refused * _SENT),
        endpoints=tuple(
            EndpointResult(
                endpoint=end,
                promised=share,
                expected=float(share * _SENT),
                measured=int(trace.shares.get(end, Fraction(0)) * _SENT),
            )
            for end, share in shares.items()
        ),
        strays={},
        sources={str(seen[service.family]): _SENT} if shares else {},
        finds=None,
        seconds=0.0,
    )
