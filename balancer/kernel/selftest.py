"""Does python-iptables on this machine write what it is told? Tried in a scratch namespace before use.

With some releases of iptables its copies of C structures are wrong (1.8.11, Debian 13): options are not
found, or land elsewhere in memory. So every form of rule that we write is written once and read back.
"""

import json
from fractions import Fraction
from functools import cache
from ipaddress import IPv4Address, ip_network

from balancer.domain.types import Family, Protocol
from balancer.kernel.base import KernelError
from balancer.kernel.pyiptables import run_child
from balancer.ruleset.ir import (
    ACK,
    NEITHER_SYN_NOR_RST,
    NO_SYN,
    SYN,
    AtMost,
    Chance,
    Faster,
    Listed,
    MoreThan,
    Nth,
    Original,
    PortRange,
    Rule,
    Ruleset,
    SourceHash,
    Table,
    TableName,
)
from balancer.ruleset.networks import make_list
from balancer.ruleset.targets import (
    Accept,
    Dnat,
    Drop,
    Goto,
    Jump,
    LimitSegments,
    Log,
    Mark,
    Masquerade,
    NoTrack,
    Reject,
    RejectWith,
    Remember,
    Return,
    SetConnMark,
    Snat,
    StripTimestamps,
    SynProxy,
)

CHILD_MODULE = "balancer.kernel.selftest_child"
TIMEOUT_SECONDS = 60

_MARK = Mark(0x30000000, 0x70000000)

_LIST, _NETWORKS = make_list((ip_network("0.0.0.0/0"),))
_CLIENTS = "LB-4.24-test:192.0.2.6-80"

EVERY_FORM = Ruleset(
    family=Family.IPV4,
    tables=(
        Table(
            TableName.MANGLE,
            {
                "LB-C-test": (
                    Rule(protocol=Protocol.TCP, more_than=MoreThan(7, 32), target=Drop()),
                    Rule(
                        protocol=Protocol.TCP,
                        destination_ports=PortRange(80, 80),
                        more_than=MoreThan(1_000_000, 32, of_destination=True),
                        target=Drop(),
                    ),
                ),
                "LB-E-test": (
                    Rule(
                        in_interface="test0",
                        protocol=Protocol.TCP,
                        original=Original(ip_network("192.0.2.1/32"), PortRange(80, 80)),
                        target=Goto("LB-C-test"),
                    ),
                    Rule(
                        protocol=Protocol.UDP,
                        original=Original(ip_network("192.0.2.0/24"), None),
                        target=Return(),
                    ),
                    Rule(protocol=Protocol.SCTP, original=Original(None, PortRange(80, 99)), target=Return()),
                ),
                "LB-LIMITS": (
                    Rule(ct_state="NEW", connmark=Mark(0x10000000, 0x50000000), target=Jump("LB-E-test")),
                ),
                "LB-OUTPUT": (
                    Rule(
                        protocol=Protocol.TCP,
                        tcp_flags=ACK,
                        source_elsewhere=True,
                        ct_state="DNAT",
                        connmark=Mark(0x10000000, 0x10000000),
                        target=StripTimestamps(),
                    ),
                ),
            },
            (("OUTPUT", "LB-OUTPUT"), ("FORWARD", "LB-LIMITS"), ("INPUT", "LB-LIMITS")),
        ),
        Table(
            TableName.FILTER,
            {
                "LB-D-test": (
                    Rule(destination=ip_network("192.0.2.1/32"), target=Drop()),
                    Rule(destination=ip_network("192.0.2.0/24"), in_interface="test0", target=Return()),
                    Rule(source=ip_network("192.0.2.2/32"), target=Return()),
                    Rule(source=ip_network("192.0.2.0/25"), target=Goto("LB-E-test")),
                    Rule(protocol=Protocol.TCP, tcp_flags=NEITHER_SYN_NOR_RST, target=Jump("LB-E-test")),
                    Rule(
                        source=ip_network("192.0.2.2/32"),
                        protocol=Protocol.TCP,
                        source_ports=PortRange(80, 80),
                        comment="a-test",
                        target=Drop(),
                    ),
                    Rule(
                        source=ip_network("192.0.2.3/32"),
                        protocol=Protocol.TCP,
                        source_ports=PortRange(8000, 8063),
                        target=Goto("LB-E-test"),
                    ),
                ),
                "LB-E-test": (),
                "LB-FORWARD": (
                    Rule(ct_state="DNAT", connmark=Mark(0x10000000, 0x50000000), target=Accept()),
                ),
                "LB-A-test": (
                    Rule(at_most=AtMost(1, 10), target=Log("LB a-test not-allowed: ")),
                    Rule(target=Drop()),
                ),
                "LB-INPUT": (
                    Rule(protocol=Protocol.TCP, ct_state="INVALID,UNTRACKED", target=Jump("LB-SYN")),
                    Rule(protocol=Protocol.TCP, tcp_flags=NO_SYN, ct_state="NEW", target=Jump("LB-SYN")),
                    Rule(ct_state="INVALID", target=Jump("LB-D-test")),
                    Rule(protocol=Protocol.TCP, connmark=_MARK, target=Reject(RejectWith.TCP_RESET)),
                    Rule(connmark=_MARK, target=Reject(RejectWith.ICMP_PORT_UNREACHABLE)),
                ),
                "LB-OUTPUT": (
                    Rule(
                        protocol=Protocol.TCP,
                        ct_state="NEW",
                        connmark=_MARK,
                        target=Reject(RejectWith.TCP_RESET),
                    ),
                ),
                "LB-SYN": (
                    Rule(protocol=Protocol.TCP, destination_ports=PortRange(80, 80), target=SynProxy(1460)),
                ),
            },
            (("INPUT", "LB-INPUT"), ("FORWARD", "LB-FORWARD"), ("OUTPUT", "LB-OUTPUT")),
        ),
        Table(
            TableName.NAT,
            {
                "LB-A-test": (
                    Rule(protocol=Protocol.TCP, not_syn=True, target=Goto("LB-DENIED")),
                    Rule(listed=Listed(_LIST), target=Goto("LB-DENIED")),
                    Rule(listed=Listed(_LIST, outside=True), target=Goto("LB-DENIED")),
                    Rule(faster=Faster("LB-0123456789ab", 10, 20, 32), target=Goto("LB-DENIED")),
                    Rule(faster=Faster("LB-0123456789ac", 3003, 5, 32), target=Goto("LB-DENIED")),
                ),
                "LB-DENIED": (
                    Rule(protocol=Protocol.TCP, tcp_flags=SYN, target=LimitSegments(1220)),
                    Rule(target=Accept()),
                ),
                "LB-B-test": (
                    Rule(target=Remember(_CLIENTS, 300)),
                    Rule(protocol=Protocol.TCP, target=Dnat(IPv4Address("192.0.2.6"), None)),
                ),
                "LB-OUTPUT": (Rule(protocol=Protocol.TCP, source_elsewhere=True, target=Goto("LB-S-test")),),
                "LB-POSTROUTING": (
                    Rule(
                        ct_state="DNAT",
                        connmark=Mark(0x30100000, 0x7FF00000),
                        target=Snat(IPv4Address("192.0.2.7")),
                    ),
                    Rule(
                        ct_state="DNAT",
                        connmark=Mark(0x30200000, 0x7FF00000),
                        target=Snat(IPv4Address("192.0.2.8"), IPv4Address("192.0.2.15")),
                    ),
                    Rule(ct_state="DNAT", connmark=_MARK, target=Masquerade()),
                ),
                "LB-PREROUTING": (
                    Rule(
                        in_interface="test+",
                        protocol=Protocol.TCP,
                        destination_ports=PortRange(80, 80),
                        destination_local=True,
                        comment="a-test:80",
                        target=Goto("LB-S-test"),
                    ),
                    Rule(
                        protocol=Protocol.UDP, destination_ports=PortRange(1, 65535), target=Goto("LB-S-test")
                    ),
                    Rule(
                        protocol=Protocol.SCTP, destination_ports=PortRange(80, 99), target=Goto("LB-S-test")
                    ),
                ),
                "LB-S-test": (
                    Rule(target=SetConnMark(_MARK)),
                    Rule(clients=_CLIENTS, target=Goto("LB-B-test")),
                    Rule(
                        protocol=Protocol.UDP,
                        source_hash=SourceHash(5, 0b1001),
                        target=Dnat(IPv4Address("192.0.2.9"), 80),
                    ),
                    Rule(
                        protocol=Protocol.UDP,
                        target=Dnat(IPv4Address("192.0.2.9"), 5000, last=5099, base=4000),
                    ),
                    Rule(protocol=Protocol.SCTP, target=Dnat(IPv4Address("192.0.2.9"), 81)),
                    Rule(protocol=Protocol.TCP, statistic=Nth(4), target=Dnat(IPv4Address("192.0.2.3"), 80)),
                    Rule(
                        protocol=Protocol.TCP, statistic=Nth(7, 5), target=Dnat(IPv4Address("192.0.2.3"), 80)
                    ),
                    Rule(
                        protocol=Protocol.UDP,
                        statistic=Chance(Fraction(1, 3)),
                        target=Dnat(IPv4Address("192.0.2.4"), 65535),
                    ),
                    Rule(protocol=Protocol.TCP, target=Dnat(IPv4Address("192.0.2.5"), 1)),
                    Rule(target=Accept()),
                ),
            },
            (("PREROUTING", "LB-PREROUTING"), ("POSTROUTING", "LB-POSTROUTING"), ("OUTPUT", "LB-OUTPUT")),
        ),
        Table(
            TableName.RAW,
            {
                "LB-PREROUTING": (Rule(protocol=Protocol.TCP, tcp_flags=SYN, target=Jump("LB-SYN")),),
                "LB-SYN": (
                    Rule(
                        protocol=Protocol.TCP,
                        destination_ports=PortRange(80, 81),
                        tcp_flags=SYN,
                        target=NoTrack(),
                    ),
                ),
            },
            (("PREROUTING", "LB-PREROUTING"),),
        ),
    ),
    lists={_LIST: _NETWORKS},
)
"""Every form of rule that `compile` can make, each option at least once."""


@cache
def why_not_python_iptables() -> str | None:
    """None when python-iptables passes; else the exact reason. Tried once in a process."""
    return run_selftest()


def run_selftest() -> str | None:
    try:
        done = run_child(CHILD_MODULE, request={}, timeout_seconds=TIMEOUT_SECONDS)
        reason = json.loads(done.output)["reason"]
    except KernelError as error:
        return str(error)
    except (ValueError, KeyError, TypeError):
        said = done.errors.strip().splitlines()
        return f"the self-test ended with exit code {done.code}: {said[-1] if said else 'it said nothing'}"
    return None if reason is None else str(reason)
