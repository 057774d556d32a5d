"""Which flavour this machine speaks, what the kernel holds, and what the other flavour decides over ours.

Both flavours hook the same packets of one kernel: a packet that one accepts may still be dropped by the
other. Reading with `iptables-<flavour>-save` and no `-t` never creates a table.
"""

from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.kernel.base import Flavour, Rejected
from balancer.kernel.tools import find_tool, run_tool
from balancer.ruleset.ir import OWN_PREFIX
from balancer.ruleset.parse import Snapshot, Unparsable, parse_save


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTool:
    """What the machine's `iptables` command is."""

    flavour: Flavour
    version: str
    reason: str


def detect_host_tool() -> HostTool:
    """Follows `iptables --version`, so that `iptables -L` shows what we wrote.

    Raises Rejected when no iptables is installed.
    """
    if find_tool("iptables") is not None:
        version = run_tool(["iptables", "--version"]).output.strip()
        # Before 1.8 there was no other flavour, and no word for it in the version.
        flavour = Flavour.NFT if "(nf_tables)" in version else Flavour.LEGACY
        return HostTool(flavour=flavour, version=version, reason=f"the iptables command here is {version}")
    for flavour in (Flavour.NFT, Flavour.LEGACY):
        if find_tool(tool_name(flavour=flavour, verb="restore")) is not None:
            return HostTool(
                flavour=flavour,
                version=tool_version(flavour),
                reason=f"only the {flavour} tools are installed",
            )
    raise Rejected("iptables is not installed. Install the package iptables; nothing was changed.")


def tool_name(*, flavour: Flavour, verb: str, family: Family = Family.IPV4) -> str:
    """`iptables-legacy-save`, `ip6tables-nft-restore`, ..."""
    return f"{'iptables' if family is Family.IPV4 else 'ip6tables'}-{flavour}-{verb}"


def tool_version(flavour: Flavour) -> str:
    return run_tool([tool_name(flavour=flavour, verb="restore"), "--version"]).output.strip()


def read_text(*, flavour: Flavour, family: Family) -> str:
    """Everything that the kernel holds in one flavour, as its save tool prints it, without counters."""
    name = tool_name(flavour=flavour, verb="save", family=family)
    done = run_tool([name])
    if done.code != 0:
        raise Rejected(f"Reading the kernel's rules failed: {name} said: {done.errors.strip() or done.code}")
    return done.output


def read_snapshot(*, flavour: Flavour, family: Family) -> Snapshot:
    """What `read_text` reads, parsed. Raises Rejected when it cannot be understood."""
    return parse_text(read_text(flavour=flavour, family=family))


def parse_text(text: str) -> Snapshot:
    """What `read_text` gave. Raises Rejected when it cannot be understood."""
    try:
        return parse_save(text)
    except Unparsable as error:
        raise Rejected(f"Reading the kernel's rules failed: {error} Nothing was changed.") from error


def read_if_any(*, flavour: Flavour, family: Family) -> Snapshot | None:
    """The same; None of IPv6 where this machine does not have it, or cannot say what it holds."""
    if family is Family.IPV4:
        return read_snapshot(flavour=flavour, family=family)
    try:
        return read_snapshot(flavour=flavour, family=family)
    except Rejected:
        return None


def look_at_other_flavour(
    *, flavour: Flavour, family: Family, unless_unreadable: bool = False
) -> tuple[str, ...]:
    """Sentences about what the other flavour would decide over ours; raises Rejected where it holds ours."""
    read = read_if_any if unless_unreadable else _read_if_installed
    other = read(flavour=flavour.other, family=family)
    if other is None:
        return ()
    _refuse_own_chains(other, flavour=flavour, family=family)
    return _warn_about_other(other, flavour=flavour, family=family)


def _read_if_installed(*, flavour: Flavour, family: Family) -> Snapshot | None:
    if find_tool(tool_name(flavour=flavour, verb="save", family=family)) is None:
        return None
    return read_snapshot(flavour=flavour, family=family)


def _refuse_own_chains(other: Snapshot, *, flavour: Flavour, family: Family) -> None:
    """Refuses to write one flavour while the other holds our chains: both would balance every packet."""
    found = sorted(
        {name for table in other.tables.values() for name in table.chains if name.startswith(OWN_PREFIX)}
    )
    if found:
        raise Rejected(
            f"The {_tables(flavour.other, family)} of this node hold lbadmin chains ({_few(found)}), so"
            f" writing the {flavour} ones would balance everything twice. Take those out first:"
            f" manage.py kernel_sync --remove --flavour {flavour.other}. Nothing was changed."
        )


def _warn_about_other(other: Snapshot, *, flavour: Flavour, family: Family) -> tuple[str, ...]:
    warnings = []
    held = sorted(name for name, table in other.tables.items() if any(table.chains.values()))
    if held:
        warnings.append(
            f"The {_tables(flavour.other, family)} of this node hold rules too (in {', '.join(held)}); they"
            f" see the same packets as the {flavour} ones and may drop or redirect what lbadmin accepts."
        )
    filter_table = other.tables.get("filter")
    if filter_table is not None and filter_table.policies.get("FORWARD") == "DROP":
        warnings.append(
            f"The FORWARD policy of the {_tables(flavour.other, family)} is DROP: balanced connections are"
            f" dropped there even though the {flavour} tables accept them. Accept them there as well, or set"
            " that policy to ACCEPT."
        )
    return tuple(warnings)


def _tables(flavour: Flavour, family: Family) -> str:
    return f"{flavour} tables" if family is Family.IPV4 else f"IPv6 {flavour} tables"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
