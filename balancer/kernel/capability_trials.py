"""Trying what this machine's kernel can carry: a rule of each kind, in a scratch namespace."""

from collections.abc import Mapping

from balancer.domain.limits import SOURCE_BITS
from balancer.domain.types import Family, Protocol
from balancer.kernel.base import Flavour
from balancer.kernel.capabilities import Missing, Need
from balancer.kernel.flavour import tool_name
from balancer.kernel.ipset import FAMILIES
from balancer.kernel.tools import find_tool, run_tool
from balancer.ruleset.ir import SYN, AtMost, Faster, MoreThan, Rule, SourceHash, TableName
from balancer.ruleset.render import render_rule, render_source_hash
from balancer.ruleset.targets import LimitSegments, Log, NoTrack, Return, StripTimestamps, SynProxy


def try_all(*, flavour: Flavour, family: Family) -> Missing:
    """Writes a rule of each kind into this namespace, which is to be a scratch one. Raises KernelError."""
    nat = _try("-j RETURN", flavour=flavour, family=family)
    if nat is not None:
        return {Need.IPV6_NAT: nat} if family is Family.IPV6 else {}
    tried = {
        Need.SCTP: _try("-p sctp -m sctp --dport 80 -j RETURN", flavour=flavour, family=family),
        Need.CLIENT_SETS: _try_sets(flavour=flavour, family=family),
        Need.SOURCE_HASH: _try(
            f"{render_source_hash(SourceHash(1, 1, ipv6=family is Family.IPV6))} -j RETURN",
            flavour=flavour,
            family=family,
        ),
        Need.SYN_PROXY: _try_syn_proxy(flavour=flavour, family=family),
        Need.NETWORK_SETS: _try_lists(flavour=flavour, family=family),
        **{
            need: _try(render_rule(rule), flavour=flavour, family=family)
            for need, rule in _limits_of(family).items()
        },
    }
    return {need: said for need, said in tried.items() if said is not None}


def _limits_of(family: Family) -> Mapping[Need, Rule]:
    bits = SOURCE_BITS[family]
    return {
        Need.NEW_RATE: Rule(faster=Faster("LB-000000000000", 1, 5, bits), target=Return()),
        Need.CONNECTION_LIMIT: Rule(more_than=MoreThan(1, bits), target=Return()),
        Need.LOG: Rule(at_most=AtMost(1, 10), target=Log("LB trial: ")),
    }


def _try_lists(*, flavour: Flavour, family: Family) -> str | None:
    if find_tool("ipset") is None:
        return "the program ipset is not installed"
    made = run_tool(["ipset", "create", "trial-net", "hash:net", "family", FAMILIES[family]])
    if made.code != 0:
        return _last_line(made.errors)
    return _try("-m set ! --match-set trial-net src -j RETURN", flavour=flavour, family=family)


def _try_sets(*, flavour: Flavour, family: Family) -> str | None:
    if find_tool("ipset") is None:
        return "the program ipset is not installed"
    made = run_tool(["ipset", "create", "trial", "hash:ip", "family", FAMILIES[family], "timeout", "300"])
    if made.code != 0:
        return _last_line(made.errors)
    for rule in (
        "-m set --match-set trial src -j RETURN",
        "-j SET --add-set trial src --exist --timeout 30",
    ):
        said = _try(rule, flavour=flavour, family=family)
        if said is not None:
            return said
    return None


def _try_syn_proxy(*, flavour: Flavour, family: Family) -> str | None:
    rules = {
        TableName.RAW: Rule(protocol=Protocol.TCP, tcp_flags=SYN, target=NoTrack()),
        TableName.FILTER: Rule(protocol=Protocol.TCP, target=SynProxy(1460)),
        TableName.MANGLE: Rule(protocol=Protocol.TCP, target=StripTimestamps()),
        TableName.NAT: Rule(protocol=Protocol.TCP, tcp_flags=SYN, target=LimitSegments(1220)),
    }
    for table, rule in rules.items():
        said = _try(render_rule(rule), flavour=flavour, family=family, table=table)
        if said is not None:
            return said
    return None


def _try(rule: str, *, flavour: Flavour, family: Family, table: TableName = TableName.NAT) -> str | None:
    """What the tool said where it refused."""
    tool = tool_name(flavour=flavour, verb="restore", family=family)
    if find_tool(tool) is None:
        return f"the program {tool} is not installed"
    text = f"*{table}\n:LB-TRIAL - [0:0]\n-A LB-TRIAL {rule}\nCOMMIT\n"
    done = run_tool([tool, "--noflush"], text=text)
    return None if done.code == 0 else _last_line(done.errors)


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line and "--help" not in line]
    return lines[-1] if lines else "it said nothing"
