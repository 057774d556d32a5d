from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from balancer.domain.types import Family
from balancer.management.commands._documents import add_document_argument, read_document
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset


class Command(BaseCommand):
    help = "Print the ruleset of a document as input for iptables-restore --noflush."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_document_argument(parser)
        parser.add_argument("--family", type=Family, choices=list(Family), default=Family.IPV4)

    def handle(self, *args: Any, **options: Any) -> None:
        document = read_document(options["document"], stderr=self.stderr)
        text = render_ruleset(compile_document(document, family=options["family"]))
        self.stdout.write(text, ending="")
