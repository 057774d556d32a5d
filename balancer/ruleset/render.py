"""Rules as text, exactly as `iptables-save` of both flavours prints them (read off iptables 1.8.9)."""

from collections.abc import Callable
from typing import Any

from balancer.domain.types import Network, PortRange, format_endpoint
from balancer.ruleset.address_bpf import bytecode
from balancer.ruleset.ir import (
    HASH_FAN_OUT,
    KERNEL_PROBABILITY_UNITS,
    AtMost,
    Chance,
    Faster,
    Listed,
    MoreThan,
    Nth,
    Original,
    Rule,
    Ruleset,
    SourceHash,
    Table,
    TcpFlags,
)
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
    Target,
)

TIMESTAMPS = 8
"""The kind of TCP's option (RFC 7323)."""
LIST_LINE = "# "
"""How a line begins that says what is in a list."""
HTABLE_MAX = 262_144
"""Sources that hashlimit keeps at once. Each takes some 100 bytes; the packets of more are dropped."""
NOT_SYN = ("FIN,SYN,RST,ACK,URG", "SYN")
"""The flags that are looked at, and those that have to be set in the first packet of a connection."""


def render_ruleset(ruleset: Ruleset) -> str:
    """Input for `iptables-restore --noflush`, for a kernel that has none of our chains yet.

    The lists come last, an entry in each line, as comments to that program: it takes no networks for sets.
    """
    return render_rules(ruleset) + "".join(
        f"{LIST_LINE}{name} {network}\n" for name, networks in ruleset.lists.items() for network in networks
    )


def render_rules(ruleset: Ruleset) -> str:
    """The same without the lists, which may hold thousands of lines."""
    return "".join(render_table(table) for table in ruleset.tables)


def render_table(table: Table) -> str:
    lines = [f"*{table.name}"]
    lines += [f":{chain} - [0:0]" for chain in table.chains]
    lines += [f"-I {builtin} -j {chain}" for builtin, chain in table.jumps]
    for chain, rules in table.chains.items():
        lines += render_chain(chain, rules)
    return "\n".join([*lines, "COMMIT", ""])


def render_chain(name: str, rules: tuple[Rule, ...]) -> list[str]:
    return [f"-A {name} {render_rule(rule)}" for rule in rules]


def render_rule(rule: Rule) -> str:
    """All that follows the name of the chain."""
    words = [spell(value) for name, spell in _CONDITIONS if (value := getattr(rule, name)) is not None]
    if any(value is not None for value in (rule.source_ports, rule.destination_ports, rule.tcp_flags)):
        # The match is that of the protocol, and stands right behind it.
        words.insert(words.index(f"-p {rule.protocol}") + 1, _protocol_match(rule))
    if rule.not_syn:
        words.insert(words.index(f"-p {rule.protocol}") + 1, f"-m tcp ! --tcp-flags {' '.join(NOT_SYN)}")
    return " ".join([*filter(None, words), _target(rule.target)])


def _protocol_match(rule: Rule) -> str:
    words = [f"-m {rule.protocol}"]
    for option, ports in (("--sport", rule.source_ports), ("--dport", rule.destination_ports)):
        if ports is not None:
            words.append(f"{option} {_ports(ports)}")
    if rule.tcp_flags is not None:
        words.append(_tcp_flags(rule.tcp_flags))
    return " ".join(words)


def _ports(ports: PortRange) -> str:
    return f"{ports.first}" + (f":{ports.last}" if ports.last != ports.first else "")


def _tcp_flags(flags: TcpFlags) -> str:
    return f"{'! ' if flags.negated else ''}--tcp-flags {flags.among} {flags.set_flags}"


def _statistic(statistic: Nth | Chance) -> str:
    if isinstance(statistic, Nth):
        return f"-m statistic --mode nth --every {statistic.every} --packet {statistic.packet}"
    probability = statistic.quantised / KERNEL_PROBABILITY_UNITS
    return f"-m statistic --mode random --probability {probability:.11f}"


def _original(original: Original) -> str:
    words = ["-m conntrack"]
    if original.destination is not None:
        words.append(f"--ctorigdst {_address_or_network(original.destination)}")
    if original.ports is not None:
        words.append(f"--ctorigdstport {_ports(original.ports)}")
    return " ".join(words)


def _address_or_network(network: Network) -> str:
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _listed(listed: Listed) -> str:
    return f"-m set {'! ' if listed.outside else ''}--match-set {listed.name} src"


def _faster(faster: Faster) -> str:
    # Of IPv4 all 32 bits go without saying, and other numbers are of IPv6 (`limits.SOURCE_BITS`).
    mask = "" if faster.bits == 32 else f" --hashlimit-srcmask {faster.bits}"
    return (
        f"-m hashlimit --hashlimit-above {faster.per_second}/sec --hashlimit-burst {faster.burst}"
        f" --hashlimit-mode srcip --hashlimit-name {faster.name} --hashlimit-htable-max {HTABLE_MAX}"
        f" --hashlimit-htable-expire {faster.expire_ms}{mask}"
    )


def _more_than(limit: MoreThan) -> str:
    side = "daddr" if limit.of_destination else "saddr"
    return (
        f"-m connlimit --connlimit-above {limit.connections} --connlimit-mask {limit.bits} --connlimit-{side}"
    )


def _at_most(limit: AtMost) -> str:
    return f"-m limit --limit {limit.per_second}/sec --limit-burst {limit.burst}"


def render_source_hash(found: SourceHash) -> str:
    if found.ipv6:
        return f'-m bpf --bytecode "{bytecode(seed=found.seed, mask=found.mask)}"'
    return (
        f"-m cluster --cluster-local-nodemask {found.mask:#010x} --cluster-total-nodes {HASH_FAN_OUT}"
        f" --cluster-hash-seed {found.seed:#010x}"
    )


def _target(target: Target) -> str:
    match target:
        case Jump(chain):
            return f"-j {chain}"
        case Goto(chain):
            return f"-g {chain}"
        case Accept() | Drop() | Return():
            return f"-j {type(target).__name__.upper()}"
        case Reject(kind):
            return f"-j REJECT --reject-with {kind}"
        case SetConnMark(mark):
            return f"-j CONNMARK --set-xmark {_mark(mark)}"
        case Remember(clients, timeout):
            return f"-j SET --add-set {clients} src --exist --timeout {timeout}"
        case NoTrack() | StripTimestamps() | SynProxy() | LimitSegments():
            return _proxy(target)
        case Log(prefix):
            return f'-j LOG --log-prefix "{prefix}"'
        case _:
            return _translation(target)


def _proxy(target: NoTrack | StripTimestamps | SynProxy | LimitSegments) -> str:
    match target:
        case NoTrack():
            return "-j CT --notrack"
        case StripTimestamps():
            return f"-j TCPOPTSTRIP --strip-options {TIMESTAMPS}"
        case LimitSegments(most):
            return f"-j TCPMSS --set-mss {most}"
        case SynProxy(mss):
            return f"-j SYNPROXY --sack-perm --timestamp --wscale {SYN_PROXY_SCALE} --mss {mss}"


def _translation(target: Dnat | Snat | Masquerade) -> str:
    match target:
        case Dnat():
            return f"-j DNAT --to-destination {render_destination(target)}"
        case Snat():
            return f"-j SNAT --to-source {render_pool(target)} --random-fully"
        case _:
            return "-j MASQUERADE --random-fully"


def render_destination(target: Dnat) -> str:
    """`10.0.0.3`, `10.0.0.3:80`, or `10.0.0.3:5000-5099/4000` for ports that are moved together."""
    if target.port is None:
        return str(target.address)
    endpoint = format_endpoint(address=target.address, port=target.port)
    return endpoint if target.base is None else f"{endpoint}-{target.last}/{target.base}"


def render_pool(target: Snat) -> str:
    """`192.0.2.1`, or `192.0.2.1-192.0.2.9`."""
    return str(target.address) if target.last is None else f"{target.address}-{target.last}"


def _mark(mark: Mark) -> str:
    return f"{mark.value:#x}/{mark.mask:#x}"


def _quote(text: str) -> str:
    """As xtables_save_string does: bare when all letters, digits, underscores and hyphens."""
    plain = text.replace("_", "").replace("-", "")
    return text if plain.isalnum() or not plain else f'"{text}"'


_CONDITIONS: tuple[tuple[str, Callable[[Any], str]], ...] = (
    ("source", "-s {}".format),
    ("destination", "-d {}".format),
    ("in_interface", "-i {}".format),
    ("protocol", "-p {}".format),
    ("destination_local", lambda wanted: "-m addrtype --dst-type LOCAL" if wanted else ""),
    ("source_elsewhere", lambda wanted: "-m addrtype ! --src-type LOCAL" if wanted else ""),
    ("ct_state", "-m conntrack --ctstate {}".format),
    ("original", _original),
    ("connmark", lambda mark: f"-m connmark --mark {_mark(mark)}"),
    ("clients", "-m set --match-set {} src".format),
    ("listed", _listed),
    ("faster", _faster),
    ("more_than", _more_than),
    ("at_most", _at_most),
    ("statistic", _statistic),
    ("source_hash", render_source_hash),
    ("comment", lambda text: f"-m comment --comment {_quote(text)}"),
)
"""Conditions of a rule in the order in which they are written."""
