"""Bring documents into a balancer of a lab with the plain tools: these tests are about rules, not drivers."""

from balancer.domain.types import Document
from balancer.lab.topology import Lab
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from tests.lab.conftest import FLAVOURS

_EMPTY = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\n*nat\nCOMMIT\n"


def load_document(*, lab: Lab, flavour: str, document: Document, machine: str = "lb1") -> None:
    """The machine carries this document in this flavour and nothing else in either.

    Connection tracking is left alone: flushed, it would hand out source ports that are still in TIME_WAIT at
    the backends, whose answer makes the client begin again, and the connection is counted twice.
    """
    remove_rules(lab, machine=machine)
    restore(
        lab=lab,
        flavour=flavour,
        text=render_ruleset(compile_document(document)),
        flush=False,
        machine=machine,
    )


def remove_rules(lab: Lab, *, machine: str = "lb1") -> None:
    """Both flavours are empty, with policies that accept."""
    for flavour in FLAVOURS:
        restore(lab=lab, flavour=flavour, text=_EMPTY, machine=machine)


def restore(*, lab: Lab, flavour: str, text: str, machine: str = "lb1", flush: bool = True) -> None:
    options = [] if flush else ["--noflush"]
    lab.run(machine=machine, command=[f"iptables-{flavour}-restore", "-w", "5", *options], text=text)
