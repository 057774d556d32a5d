import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from balancer.domain import address_scalars, scalars
from balancer.domain.types import Family, Protocol
from balancer.management.commands._documents import add_document_argument, read_document
from balancer.ruleset.compile import compile_document
from balancer.ruleset.matching import Packet
from balancer.ruleset.reasons import Reason
from balancer.ruleset.trace import Trace, trace_packet


def _argument(read: Callable[[Any], Any], *, number: bool = False) -> Callable[[str], Any]:
    """An argparse type from a reader of the document, so that both refuse the same values."""

    def convert(text: str) -> Any:
        try:
            return read(int(text) if number and text.isascii() and text.isdigit() else text)
        except scalars.Invalid as error:
            raise ArgumentTypeError(error.message) from error

    return convert


class Command(BaseCommand):
    help = "Say which service and backends a new connection would get, with exact shares."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_document_argument(parser)
        place = parser.add_mutually_exclusive_group(required=True)
        place.add_argument("--interface", type=_argument(scalars.interface), help="where it comes in")
        place.add_argument(
            "--from-node", action="store_true", help="a program on the node itself makes the connection"
        )
        parser.add_argument("--protocol", required=True, type=Protocol, choices=list(Protocol))
        parser.add_argument(
            "--source",
            type=_argument(address_scalars.address),
            metavar="ADDRESS",
            help="the client; without it any client, so that source-hash gives shares instead of one backend",
        )
        parser.add_argument(
            "--destination", required=True, type=_argument(address_scalars.address), metavar="ADDRESS"
        )
        parser.add_argument("--port", required=True, type=_argument(scalars.port, number=True))
        parser.add_argument(
            "--transit",
            action="store_true",
            help="the destination is not an address of the node (it is, unless you say so)",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        document = read_document(options["document"], stderr=self.stderr)
        packet = Packet(
            interface=options["interface"],
            protocol=options["protocol"],
            source=options["source"],
            destination=options["destination"],
            port=options["port"],
            destination_local=not options["transit"],
        )
        if packet.source is not None and packet.source.version != packet.destination.version:
            raise CommandError("Source and destination must both be IPv4 or both be IPv6 addresses.")
        family = Family.IPV6 if packet.destination.version == 6 else Family.IPV4
        trace = trace_packet(compile_document(document, family=family), packet)
        if options["json"]:
            self.stdout.write(json.dumps(_as_data(trace)))
        else:
            self.stdout.write("\n".join(_as_lines(trace)))


def _as_data(trace: Trace) -> dict[str, object]:
    data = {
        "matched": trace.matched,
        "service": trace.service,
        "masqueraded": trace.masqueraded,
        "shares": {endpoint: str(share) for endpoint, share in trace.shares.items()},
        "unmatched": str(trace.unmatched),
    }
    pool = {"rewritten_to": trace.rewritten_to} if trace.rewritten_to else {}
    refused = {"refused": str(trace.refused)} if trace.refused else {}
    denied = {"denied": str(trace.why)} if trace.dropped else {}
    return data | pool | refused | denied


def _as_lines(trace: Trace) -> list[str]:
    if not trace.matched:
        lines = ["No service takes this connection; it goes on as if there were no balancer."]
    elif trace.dropped:
        lines = [f"Service {trace.service} drops this connection: {_WHY[trace.why]}."]
    elif trace.refused:
        lines = [f"Service {trace.service} has no backend for new connections; this one is refused at once."]
    else:
        lines = [f"Service {trace.service}. Backends see {_source(trace)}."]
        lines += [
            f"  {endpoint:<24} {share!s:>10}  {_percent(share)}" for endpoint, share in trace.shares.items()
        ]
    lines += ["", f"Rules walked ({len(trace.steps)}):"]
    lines += [f"  {'*' if step.matched else ' '} {step}" for step in trace.steps]
    return lines


_WHY = {
    Reason.DENIED: "the client is on its deny list",
    Reason.NOT_ALLOWED: "the client is not on its allow list",
}


def _source(trace: Trace) -> str:
    if trace.masqueraded:
        return "the balancer's address"
    if trace.rewritten_to is None:
        return "the client's own address"
    pool = "-" in trace.rewritten_to
    return f"an address of the pool {trace.rewritten_to}" if pool else f"the address {trace.rewritten_to}"


def _percent(share: Fraction) -> str:
    return f"{float(share) * 100:.2f} %"
