"""Rules as text, exactly as `iptables-save` of both flavours prints them (read off iptables 1.8.9)."""

from balancer.domain.types import format_endpoint
from balancer.ruleset.ir import (
    KERNEL_PROBABILITY_UNITS,
    Accept,
    Chance,
    Dnat,
    Drop,
    Goto,
    Jump,
    Mark,
    Masquerade,
    Nth,
    Reject,
    Return,
    Rule,
    Ruleset,
    Table,
    Target,
)


def render_ruleset(ruleset: Ruleset) -> str:
    """Input for `iptables-restore --noflush`, for a kernel that has none of our chains yet."""
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
    words: list[str] = []
    if rule.destination is not None:
        words.append(f"-d {rule.destination}")
    if rule.in_interface is not None:
        words.append(f"-i {rule.in_interface}")
    if rule.protocol is not None:
        words.append(f"-p {rule.protocol}")
    if rule.destination_ports is not None:
        first, last = rule.destination_ports.first, rule.destination_ports.last
        words.append(f"-m {rule.protocol} --dport {first}" + (f":{last}" if last != first else ""))
    if rule.destination_local:
        words.append("-m addrtype --dst-type LOCAL")
    if rule.ct_state is not None:
        words.append(f"-m conntrack --ctstate {rule.ct_state}")
    if rule.connmark is not None:
        words.append(f"-m connmark --mark {_mark(rule.connmark)}")
    if rule.statistic is not None:
        words.append(_statistic(rule.statistic))
    if rule.comment is not None:
        words.append(f"-m comment --comment {_quote(rule.comment)}")
    words.append(_target(rule.target))
    return " ".join(words)


def _statistic(statistic: Nth | Chance) -> str:
    if isinstance(statistic, Nth):
        return f"-m statistic --mode nth --every {statistic.every} --packet {statistic.packet}"
    probability = statistic.quantised / KERNEL_PROBABILITY_UNITS
    return f"-m statistic --mode random --probability {probability:.11f}"


def _target(target: Target) -> str:
    match target:
        case Jump(chain):
            return f"-j {chain}"
        case Goto(chain):
            return f"-g {chain}"
        case Accept():
            return "-j ACCEPT"
        case Drop():
            return "-j DROP"
        case Return():
            return "-j RETURN"
        case Reject(kind):
            return f"-j REJECT --reject-with {kind}"
        case Dnat(address, port):
            return f"-j DNAT --to-destination {format_endpoint(address=address, port=port)}"
        case Masquerade():
            return "-j MASQUERADE --random-fully"
        case _:
            return f"-j CONNMARK --set-xmark {_mark(target.mark)}"


def _mark(mark: Mark) -> str:
    return f"{mark.value:#x}/{mark.mask:#x}"


def _quote(text: str) -> str:
    """As xtables_save_string does: bare when all letters, digits, underscores and hyphens."""
    plain = text.replace("_", "").replace("-", "")
    return text if plain.isalnum() or not plain else f'"{text}"'
