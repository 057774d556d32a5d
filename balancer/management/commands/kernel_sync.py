from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from balancer.domain.types import Family
from balancer.kernel.base import DriverName, Flavour, KernelError, Receipt
from balancer.kernel.idle import is_idle
from balancer.kernel.meter import meter_of_this_kernel
from balancer.kernel.node import NodeKernel
from balancer.management.commands._documents import read_document
from balancer.ruleset.compile import compile_document


class Command(BaseCommand):
    help = (
        "Make the kernel of this network namespace carry a document, verified; or take lbadmin's rules out."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--document", type=Path, metavar="FILE", help="the document, as JSON")
        what.add_argument("--remove", action="store_true", help="take every chain and jump of lbadmin's out")
        parser.add_argument(
            "--flavour", type=Flavour, choices=list(Flavour), help="follows iptables if left out"
        )
        parser.add_argument("--driver", type=DriverName, choices=list(DriverName), help="follows the flavour")
        parser.add_argument(
            "--this-host",
            action="store_true",
            help="allow writing in the network namespace of PID 1, which is this machine's own",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        kernel = NodeKernel(
            flavour=options["flavour"],
            driver=options["driver"],
            this_host=options["this_host"],
            meter=meter_of_this_kernel(Path(settings.LBADMIN_GUARD_DIR)),
        )
        try:
            if options["remove"]:
                self._print(kernel.remove())
            else:
                self._sync(kernel, options["document"])
        except KernelError as error:
            raise CommandError(str(error)) from error

    def _sync(self, kernel: NodeKernel, path: Path) -> None:
        """Both families; of IPv6 nothing is said where the document has none and the kernel held none."""
        document = read_document(path, stderr=self.stderr)
        for family in Family:
            ruleset = compile_document(document, family=family)
            receipt = kernel.sync(ruleset=ruleset, document=document)
            if receipt.changed or not is_idle(ruleset):
                self._print(receipt)

    def _print(self, receipt: Receipt) -> None:
        for warning in receipt.warnings:
            self.stderr.write(f"Warning: {warning}")
        for step in receipt.steps:
            self.stdout.write(step)
        digest = f", ruleset {receipt.ruleset_digest}" if receipt.ruleset_digest else ""
        self.stdout.write(f"Done in {receipt.duration_ms} ms: {receipt.flavour}, {receipt.driver}{digest}")
