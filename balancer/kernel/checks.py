"""What may reach libxtables. Pure.

libxtables and python-iptables turn several bad values into other rules instead of refusing them (port 99999
into every port, a leading `!` into its opposite), so every value is checked here first.
"""

import re
from collections.abc import Iterator

from balancer.domain.limits import SOURCE_BITS, rate_of_kernel
from balancer.domain.types import Family
from balancer.ruleset.ir import (
    CHAIN_NAME_MAX,
    HASH_FAN_OUT,
    KERNEL_PROBABILITY_UNITS,
    OWN_PREFIX,
    Chance,
    Faster,
    MoreThan,
    Nth,
    PortRange,
    Rule,
    SourceHash,
    TcpFlags,
    Unknown,
)
from balancer.ruleset.names import SET_NAME_MAX
from balancer.ruleset.networks import family_of_list
from balancer.ruleset.parse import parse_rule
from balancer.ruleset.sets import read_set_name
from balancer.ruleset.targets import (
    Dnat,
    Goto,
    Jump,
    Log,
    Mark,
    Reject,
    RejectWith,
    Remember,
    SetConnMark,
    Snat,
    SynProxy,
)

PORT_MAX = 65535
U32_MAX = 2**32 - 1
COMMENT_MAX = 255
TIMEOUT_MAX = 604_800
RATE_MAX = 10_000
BURST_MAX = 100_000

_CHAIN = re.compile(rf"{OWN_PREFIX}[A-Za-z0-9:._+@-]+")
_BUILTIN = re.compile(r"[A-Z]{1,28}")
_INTERFACE = re.compile(r"[A-Za-z0-9._:@-]{1,15}|[A-Za-z0-9._:@-]{0,14}\+")
_RATE_NAME = re.compile(rf"{OWN_PREFIX}[0-9a-f]{{12}}")
_LOG_PREFIX = re.compile(r"[A-Za-z0-9:._ -]{1,29}")
_COMMENT = re.compile(r"[A-Za-z0-9:_.-]+")
_CT_STATES = {"NEW", "INVALID", "DNAT", "INVALID,UNTRACKED"}
_FLAGS = {"FIN", "SYN", "RST", "PSH", "ACK", "URG", "ALL", "NONE"}
MSS_MAX = 65535


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
    yield from _packet_objections(rule)
    if rule.connmark is not None and not _is_mark(rule.connmark):
        yield "a connection mark has 32 bits"
    if rule.statistic is not None and not _is_statistic(rule.statistic):
        yield "the share is out of range"
    if rule.source_hash is not None and not _is_source_hash(rule.source_hash):
        yield "the parts of all clients are out of range"
    if rule.clients is not None and not _is_set(rule.clients):
        yield f"{rule.clients!r} is not a set of lbadmin's"
    if rule.comment is not None and not (
        _COMMENT.fullmatch(rule.comment) and len(rule.comment) <= COMMENT_MAX
    ):
        yield f"{rule.comment!r} cannot be a comment"
    yield from _access_objections(rule)
    yield from _target_objections(rule)


def _packet_objections(rule: Rule) -> Iterator[str]:
    if rule.in_interface is not None and not _INTERFACE.fullmatch(rule.in_interface):
        yield f"{rule.in_interface!r} cannot be an interface name"
    for ports in (rule.source_ports, rule.destination_ports):
        if ports is not None:
            yield from _port_objections(rule, ports)
    if rule.tcp_flags is not None and not (rule.protocol == "tcp" and _are_flags(rule.tcp_flags)):
        yield "TCP has the flags FIN, SYN, RST, PSH, ACK and URG"
    if rule.ct_state is not None and rule.ct_state not in _CT_STATES:
        yield f"unknown connection state {rule.ct_state!r}"


def _access_objections(rule: Rule) -> Iterator[str]:
    if rule.not_syn and rule.protocol != "tcp":
        yield "only TCP has flags"
    if rule.listed is not None and family_of_list(rule.listed.name) is None:
        yield f"{rule.listed.name!r} is not a list of lbadmin's"
    if rule.original is not None and rule.original.ports is not None:
        yield from _port_objections(rule, rule.original.ports)
    if rule.faster is not None and not _is_faster(rule.faster):
        yield "the rate is out of range"
    if rule.more_than is not None and not _is_more_than(rule.more_than):
        yield "the limit of connections is out of range"
    if rule.at_most is not None and not (
        1 <= rule.at_most.per_second <= RATE_MAX and 1 <= rule.at_most.burst <= RATE_MAX
    ):
        yield "the limit is out of range"


def _is_faster(faster: Faster) -> bool:
    return (
        1 <= faster.per_second <= RATE_MAX
        and rate_of_kernel(faster.per_second) == faster.per_second
        and 1 <= faster.burst <= BURST_MAX
        and faster.bits in SOURCE_BITS.values()
        and _RATE_NAME.fullmatch(faster.name) is not None
    )


def _is_more_than(limit: MoreThan) -> bool:
    return 0 <= limit.connections <= U32_MAX and 1 <= limit.bits <= 128


def _port_objections(rule: Rule, ports: PortRange) -> Iterator[str]:
    if rule.protocol is None:
        yield "ports need a protocol"
    if not 0 <= ports.first <= ports.last <= PORT_MAX:
        yield f"ports go from 0 to {PORT_MAX}"


def _target_objections(rule: Rule) -> Iterator[str]:
    match rule.target:
        case Jump(chain) | Goto(chain):
            check_chain(chain)
        case Reject(kind):
            if kind is RejectWith.TCP_RESET and rule.protocol != "tcp":
                yield "only TCP can be reset"
        case SetConnMark(mark):
            if not _is_mark(mark):
                yield "a connection mark has 32 bits"
        case Remember(clients, timeout):
            if not _is_set(clients):
                yield f"{clients!r} is not a set of lbadmin's"
            if not 1 <= timeout <= TIMEOUT_MAX:
                yield f"a client is remembered for 1 to {TIMEOUT_MAX} seconds"
        case _:
            yield from _further_objections(rule)


def _further_objections(rule: Rule) -> Iterator[str]:
    match rule.target:
        case Log(prefix):
            if not _LOG_PREFIX.fullmatch(prefix):
                yield f"{prefix!r} cannot begin a line of the log"
        case Dnat():
            yield from _dnat_objections(rule, rule.target)
        case Snat(address, last):
            if last is not None and (last.version != address.version or int(last) <= int(address)):
                yield "a pool of addresses goes upwards"
        case SynProxy(mss):
            if rule.protocol != "tcp" or not 1 <= mss <= MSS_MAX:
                yield f"a SYN proxy is for TCP, with a segment size of 1 to {MSS_MAX}"


def _dnat_objections(rule: Rule, target: Dnat) -> Iterator[str]:
    ports = [port for port in (target.port, target.last, target.base) if port is not None]
    if not all(1 <= port <= PORT_MAX for port in ports):
        yield f"a backend's port goes from 1 to {PORT_MAX}"
    if target.port is not None and target.last is not None and target.last < target.port:
        yield "a range of ports goes upwards"
    if ports and rule.protocol is None:
        yield "a port to translate to needs a protocol"


def _are_flags(flags: TcpFlags) -> bool:
    wanted = set() if flags.set_flags == "NONE" else set(flags.set_flags.split(","))
    return {*flags.among.split(","), *wanted} <= _FLAGS


def _is_set(name: str) -> bool:
    return read_set_name(name) is not None and len(name) <= SET_NAME_MAX


def _is_source_hash(found: SourceHash) -> bool:
    return 0 < found.mask < 1 << HASH_FAN_OUT and 0 <= found.seed <= U32_MAX


def _is_mark(mark: Mark) -> bool:
    return 0 <= mark.value <= U32_MAX and 0 <= mark.mask <= U32_MAX


def _is_statistic(statistic: Nth | Chance) -> bool:
    if isinstance(statistic, Chance):
        return 0 < statistic.quantised <= KERNEL_PROBABILITY_UNITS
    return 1 <= statistic.every <= U32_MAX and 0 <= statistic.packet < statistic.every
