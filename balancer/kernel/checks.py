"""What may reach libxtables. Pure.

libxtables and python-iptables turn several bad values into other rules instead of refusing them (port 99999
into every port, a leading `!` into its opposite), so every value is checked here first.
"""

import re
from collections.abc import Iterator

from balancer.domain.types import Family
from balancer.ruleset.ir import (
    CHAIN_NAME_MAX,
    KERNEL_PROBABILITY_UNITS,
    OWN_PREFIX,
    Chance,
    Dnat,
    Goto,
    Jump,
    Mark,
    Nth,
    PortRange,
    Reject,
    RejectWith,
    Rule,
    SetConnMark,
    Unknown,
)
from balancer.ruleset.parse import parse_rule

PORT_MAX = 65535
U32_MAX = 2**32 - 1
COMMENT_MAX = 255

_CHAIN = re.compile(rf"{OWN_PREFIX}[A-Za-z0-9:._+@-]+")
_BUILTIN = re.compile(r"[A-Z]{1,28}")
_INTERFACE = re.compile(r"[A-Za-z0-9._:@-]{1,15}|[A-Za-z0-9._:@-]{0,14}\+")
_COMMENT = re.compile(r"[A-Za-z0-9:_.-]+")
_CT_STATES = {"INVALID", "DNAT"}


class Unfit(ValueError):
    """A rule that must not reach libxtables; the message says which and why."""


def read_rule(text: str, *, family: Family) -> Rule:
    """The rule that `text` spells, every value in range. Raises Unfit."""
    rule = parse_rule(text, family=family)
    if isinstance(rule, Unknown):
        raise Unfit(f"{text!r} is not a rule that lbadmin writes")
    for reason in _objections(rule):
        raise Unfit(f"{text!r}: {reason}")
    return rule


def check_chain(name: str) -> str:
    if not _CHAIN.fullmatch(name) or len(name) > CHAIN_NAME_MAX:
        raise Unfit(f"{name!r} is not a chain name of lbadmin's")
    return name


def check_builtin(name: str) -> str:
    if not _BUILTIN.fullmatch(name):
        raise Unfit(f"{name!r} is not a built-in chain")
    return name


def _objections(rule: Rule) -> Iterator[str]:
    if rule.in_interface is not None and not _INTERFACE.fullmatch(rule.in_interface):
        yield f"{rule.in_interface!r} cannot be an interface name"
    if rule.destination_ports is not None:
        yield from _port_objections(rule, rule.destination_ports)
    if rule.ct_state is not None and rule.ct_state not in _CT_STATES:
        yield f"unknown connection state {rule.ct_state!r}"
    if rule.connmark is not None and not _is_mark(rule.connmark):
        yield "a connection mark has 32 bits"
    if rule.statistic is not None and not _is_statistic(rule.statistic):
        yield "the share is out of range"
    if rule.comment is not None and not (
        _COMMENT.fullmatch(rule.comment) and len(rule.comment) <= COMMENT_MAX
    ):
        yield f"{rule.comment!r} cannot be a comment"
    yield from _target_objections(rule)


def _port_objections(rule: Rule, ports: PortRange) -> Iterator[str]:
    if rule.protocol is None:
        yield "ports need a protocol"
    if not 0 <= ports.first <= ports.last <= PORT_MAX:
        yield f"ports go from 0 to {PORT_MAX}"


def _target_objections(rule: Rule) -> Iterator[str]:
    match rule.target:
        case Jump(chain) | Goto(chain):
            check_chain(chain)
        case Dnat(_, port):
            if not 1 <= port <= PORT_MAX:
                yield f"a backend's port goes from 1 to {PORT_MAX}"
            if rule.protocol is None:
                yield "a port to translate to needs a protocol"
        case Reject(kind):
            if kind is RejectWith.TCP_RESET and rule.protocol != "tcp":
                yield "only TCP can be reset"
        case SetConnMark(mark):
            if not _is_mark(mark):
                yield "a connection mark has 32 bits"


def _is_mark(mark: Mark) -> bool:
    return 0 <= mark.value <= U32_MAX and 0 <= mark.mask <= U32_MAX


def _is_statistic(statistic: Nth | Chance) -> bool:
    if isinstance(statistic, Chance):
        return 0 < statistic.quantised <= KERNEL_PROBABILITY_UNITS
    return 1 <= statistic.every <= U32_MAX and 0 <= statistic.packet < statistic.every
