import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from balancer.factories import AUTO, rehearsal_loader
from balancer.kernel.base import DriverName, Flavour
from balancer.lab.errors import LabError
from balancer.lab.rehearsal import Rehearsal, ServiceResult
from balancer.lab.rehearse import rehearse
from balancer.management.commands._documents import add_document_argument, read_document

FAILED, IMPOSSIBLE = 1, 2
_LISTED = 10


class Command(BaseCommand):
    help = "Load a document in a throw-away network namespace and measure it with real connections."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_document_argument(parser)
        parser.add_argument(
            "--flavour", type=Flavour, choices=list(Flavour), help="follows iptables if left out"
        )
        parser.add_argument("--driver", type=DriverName, choices=list(DriverName), help="follows the flavour")
        parser.add_argument(
            "--touched",
            nargs="+",
            metavar="NAME",
            help="services that get at least 400 connections each, the others a few (all, if left out)",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            document = read_document(options["document"], stderr=self.stderr)
            load = rehearsal_loader(flavour=options["flavour"] or AUTO, driver=options["driver"] or AUTO)
            result = rehearse(document=document, load=load, touched=options["touched"])
        except CommandError as error:
            raise CommandError(str(error), returncode=IMPOSSIBLE) from error
        except LabError as error:
            raise CommandError(f"This could not be rehearsed. {error}", returncode=IMPOSSIBLE) from error
        if options["json"]:
            self.stdout.write(json.dumps(result.to_data()))
        else:
            self.stdout.write("\n".join(_as_lines(result)))
        if not result.passed:
            raise SystemExit(FAILED)


def _as_lines(result: Rehearsal) -> Iterator[str]:
    for service in result.services:
        yield from _service_lines(service)
    for one in result.omitted[:_LISTED]:
        yield f"Left out: {one.name}: {one.reason}."
    if len(result.omitted) > _LISTED:
        yield f"Left out: {len(result.omitted) - _LISTED} more (--json lists them)."
    loaded = result.loaded
    if loaded.error is None:
        yield f"Loaded cleanly: {loaded.flavour}, {loaded.driver}, ruleset {loaded.digest}."
    yield f"{result.verdict} It took {result.seconds:.1f} s."


def _service_lines(service: ServiceResult) -> Iterator[str]:
    mark = "ok    " if service.passed else "FAILED"
    yield f"{mark} {service.name} ({service.target}): {service.verdict}"
    if not service.touched:
        return
    for one in service.endpoints:
        share = 100 * one.measured / service.sent
        yield (
            f"         {one.endpoint:<24} promised {100 * float(one.promised):6.2f} %"
            f"  measured {share:6.2f} %  ({one.measured} of {service.sent})"
        )
    if service.finds is not None and len(service.endpoints) > 1:
        yield f"         A share wrong by {100 * service.finds:.0f} % of itself would be found."
