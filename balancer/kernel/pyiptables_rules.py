"""Our rules in the terms of python-iptables. Imported in the child only.

Matches are added in the order in which iptables-save prints them for rules that iptables-restore wrote, so
that both drivers leave the same text. `iptc.easy` is never used: it leaves out what it cannot encode, and
a rule with a condition less matches more.
"""

import iptc
from iptc import ip4tc

from balancer.kernel.plan import JumpEdit, TablePlan
from balancer.ruleset.ir import (
    HASH_FAN_OUT,
    KERNEL_PROBABILITY_UNITS,
    Chance,
    Faster,
    MoreThan,
    Nth,
    Original,
    PortRange,
    Rule,
    SourceHash,
)
from balancer.ruleset.render import HTABLE_MAX, NOT_SYN, TIMESTAMPS, render_destination, render_pool
from balancer.ruleset.targets import (
    SYN_PROXY_SCALE,
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
    Remember,
    Return,
    SetConnMark,
    Snat,
    StripTimestamps,
    SynProxy,
)


def edit_table(table: iptc.Table, plan: TablePlan, rules: dict[str, list[Rule]]) -> None:
    """Makes the edits of `plan` in memory; `rules` are those of `plan.write`, read and checked."""
    for chain in plan.write:
        if table.is_chain(chain):
            table.flush_entries(chain)
        else:
            table.create_chain(chain)
    for chain, wanted in rules.items():
        for rule in wanted:
            iptc.Chain(table, chain).append_rule(build_rule(rule))
    for jump in plan.jumps:
        _edit_jump(table, jump)
    for chain in plan.delete:
        table.flush_entries(chain)
    for chain in plan.delete:
        table.delete_chain(chain)


def commit(table: iptc.Table) -> int:
    """Commits, once; 0, or the errno of the refusal. Table.commit() loses the number on the way."""
    if ip4tc.iptc.iptc_commit(table._handle) == 1:
        return 0
    return int(ip4tc._get_errno_loc()[0])


def build_rule(rule: Rule) -> iptc.Rule:
    built = iptc.Rule()
    if rule.source is not None:
        built.src = str(rule.source)
    if rule.destination is not None:
        built.dst = str(rule.destination)
    if rule.in_interface is not None:
        built.in_interface = rule.in_interface
    if rule.protocol is not None:
        built.protocol = rule.protocol.value
    _add_matches(built, rule)
    _set_target(built, rule)
    return built


def _add_matches(built: iptc.Rule, rule: Rule) -> None:
    _add_packet_matches(built, rule)
    if rule.original is not None:
        _match(built, "conntrack", **_original(rule.original))
    if rule.connmark is not None:
        _match(built, "connmark", mark=_mark(rule.connmark))
    if rule.clients is not None:
        built.create_match("set").set_parameter("match_set", [rule.clients, "src"])
    _add_limits(built, rule)
    _add_statistic(built, rule)
    if rule.source_hash is not None:
        _match(built, "cluster", **_source_hash(rule.source_hash))
    if rule.comment is not None:
        _match(built, "comment", comment=rule.comment)


def _add_protocol_matches(built: iptc.Rule, rule: Rule) -> None:
    if rule.protocol is not None and (rule.source_ports or rule.destination_ports or rule.tcp_flags):
        match = built.create_match(rule.protocol.value)
        if rule.source_ports is not None:
            match.set_parameter("sport", _ports(rule.source_ports))
        if rule.destination_ports is not None:
            match.set_parameter("dport", _ports(rule.destination_ports))
        if rule.tcp_flags is not None:
            flags = rule.tcp_flags
            match.set_parameter("tcp_flags", [*("!" * flags.negated), flags.among, flags.set_flags])
    if rule.not_syn:
        built.create_match("tcp").set_parameter("tcp_flags", ["!", *NOT_SYN])


def _ports(ports: PortRange) -> str:
    return f"{ports.first}:{ports.last}" if ports.last != ports.first else str(ports.first)


def _add_statistic(built: iptc.Rule, rule: Rule) -> None:
    if isinstance(rule.statistic, Nth):
        nth = rule.statistic
        _match(built, "statistic", mode="nth", every=str(nth.every), packet=str(nth.packet))
    if isinstance(rule.statistic, Chance):
        share = rule.statistic.quantised / KERNEL_PROBABILITY_UNITS
        _match(built, "statistic", mode="random", probability=f"{share:.11f}")


def _add_limits(built: iptc.Rule, rule: Rule) -> None:
    if rule.listed is not None:
        outside = ["!"] if rule.listed.outside else []
        built.create_match("set").set_parameter("match_set", [*outside, rule.listed.name, "src"])
    if rule.faster is not None:
        _match(built, "hashlimit", **_faster(rule.faster))
    if rule.more_than is not None:
        _add_more_than(built, rule.more_than)
    if rule.at_most is not None:
        at_most = rule.at_most
        _match(built, "limit", limit=f"{at_most.per_second}/sec", limit_burst=str(at_most.burst))


def _original(original: Original) -> dict[str, str]:
    words = {}
    if original.destination is not None:
        words["ctorigdst"] = str(original.destination)
    if original.ports is not None:
        words["ctorigdstport"] = _ports(original.ports)
    return words


def _faster(faster: Faster) -> dict[str, str]:
    return {
        "hashlimit_above": f"{faster.per_second}/sec",
        "hashlimit_burst": str(faster.burst),
        "hashlimit_mode": "srcip",
        "hashlimit_name": faster.name,
        "hashlimit_htable_max": str(HTABLE_MAX),
        "hashlimit_htable_expire": str(faster.expire_ms),
        "hashlimit_srcmask": str(faster.bits),
    }


def _add_more_than(built: iptc.Rule, limit: MoreThan) -> None:
    match = built.create_match("connlimit")
    match.set_parameter("connlimit_above", str(limit.connections))
    match.set_parameter("connlimit_mask", str(limit.bits))
    match.set_parameter("connlimit_daddr" if limit.of_destination else "connlimit_saddr")


def _add_packet_matches(built: iptc.Rule, rule: Rule) -> None:
    _add_protocol_matches(built, rule)
    if rule.destination_local:
        _match(built, "addrtype", dst_type="LOCAL")
    if rule.source_elsewhere:
        _match(built, "addrtype", src_type="!LOCAL")
    if rule.ct_state is not None:
        _match(built, "conntrack", ctstate=rule.ct_state)


def _set_target(built: iptc.Rule, rule: Rule) -> None:
    match rule.target:
        case Jump(chain):
            built.create_target(chain)
        case Goto(chain):
            built.create_target(chain, goto=True)
        case Accept() | Drop() | Return():
            built.create_target(type(rule.target).__name__.upper())
        case Reject(kind):
            built.create_target("REJECT").set_parameter("reject_with", kind.value)
        case SetConnMark(mark):
            built.create_target("CONNMARK").set_parameter("set_xmark", _mark(mark))
        case Remember(clients, timeout):
            target = built.create_target("SET")
            target.set_parameter("add_set", [clients, "src"])
            target.set_parameter("exist")
            target.set_parameter("timeout", str(timeout))
        case NoTrack() | SynProxy() | StripTimestamps() | LimitSegments():
            _set_proxy(built, rule.target)
        case Log(prefix):
            built.create_target("LOG").set_parameter("log_prefix", prefix)
        case _:
            _set_translation(built, rule.target)


def _set_proxy(built: iptc.Rule, target: NoTrack | SynProxy | StripTimestamps | LimitSegments) -> None:
    match target:
        case NoTrack():
            built.create_target("CT").set_parameter("notrack")
        case StripTimestamps():
            built.create_target("TCPOPTSTRIP").set_parameter("strip_options", str(TIMESTAMPS))
        case LimitSegments(most):
            built.create_target("TCPMSS").set_parameter("set_mss", str(most))
        case SynProxy(mss):
            made = built.create_target("SYNPROXY")
            made.set_parameter("sack_perm")
            made.set_parameter("timestamp")
            made.set_parameter("wscale", str(SYN_PROXY_SCALE))
            made.set_parameter("mss", str(mss))


def _set_translation(built: iptc.Rule, target: Dnat | Snat | Masquerade) -> None:
    match target:
        case Dnat():
            built.create_target("DNAT").set_parameter("to_destination", render_destination(target))
        case Snat():
            made = built.create_target("SNAT")
            made.set_parameter("to_source", render_pool(target))
            made.set_parameter("random_fully")
        case _:
            built.create_target("MASQUERADE").set_parameter("random_fully")


def _source_hash(found: SourceHash) -> dict[str, str]:
    assert not found.ipv6, "this driver carries IPv4 only"
    return {
        "cluster_local_nodemask": f"{found.mask:#x}",
        "cluster_total_nodes": str(HASH_FAN_OUT),
        "cluster_hash_seed": f"{found.seed:#x}",
    }


def _match(built: iptc.Rule, name: str, **parameters: str) -> None:
    match = built.create_match(name)
    for parameter, value in parameters.items():
        match.set_parameter(parameter, value)


def _mark(mark: Mark) -> str:
    return f"{mark.value:#x}/{mark.mask:#x}"


def _edit_jump(table: iptc.Table, jump: JumpEdit) -> None:
    chain = iptc.Chain(table, jump.builtin)
    for _ in range(jump.drop):
        chain.delete_rule(build_rule(Rule(target=Jump(jump.chain))))
    if jump.insert_at is not None:
        chain.insert_rule(build_rule(Rule(target=Jump(jump.chain))), position=jump.insert_at - 1)
