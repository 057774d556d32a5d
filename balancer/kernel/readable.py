"""Tables of iptables-nft with rules that only nft could have written: iptables-nft-save leaves them out.

Then our own rules there look as if they were gone. Where the strange rule is in a chain of ours, writing that
chain anew puts it right. Anywhere else nothing may be written: a jump would be put in beside the one unseen.
"""

import re
from collections.abc import Iterator

from balancer.domain.types import Family
from balancer.kernel.base import Flavour, HostCheck, Rejected
from balancer.kernel.native_listing import list_chain_names
from balancer.kernel.tools import run_tool
from balancer.ruleset.ir import OWN_PREFIX

_INCOMPATIBLE = re.compile(r"^# Table `(\w+)' is incompatible", re.MULTILINE)
"""iptables-nft-save 1.8.9."""


def check_readable(text: str, *, family: Family) -> Iterator[HostCheck]:
    """nft-rules-in-our-tables, of what iptables-nft-save gave."""
    for table in _INCOMPATIBLE.findall(text):
        yield HostCheck(id="nft-rules-in-our-tables", message=_sentence(table, family))


def refuse_unreadable(text: str, *, flavour: Flavour, family: Family) -> None:
    """Raises Rejected where a chain of others has rules that iptables cannot show, or nobody can tell."""
    for table in _INCOMPATIBLE.findall(text) if flavour is Flavour.NFT else ():
        chains = list_chain_names(family=_word(family), table=table)
        others = [chain for chain in chains or () if not chain.startswith(OWN_PREFIX)]
        if chains is None or not all(_is_shown(chain, table, family) for chain in others):
            raise Rejected(f"{_sentence(table, family)} Nothing was changed.")


def _is_shown(chain: str, table: str, family: Family) -> bool:
    tool = "iptables-nft" if family is Family.IPV4 else "ip6tables-nft"
    return run_tool([tool, "-t", table, "-S", chain]).code == 0


def _sentence(table: str, family: Family) -> str:
    place = f"{_word(family)} {table}"
    return (
        f"Table {place} of iptables-nft holds rules that iptables cannot show, as somebody wrote them with"
        " nft: lbadmin cannot see its own rules there and can apply nothing. Find them with"
        f" 'nft -a list table {place}', take them out with 'nft delete rule {place} CHAIN handle NUMBER', and"
        " put them into a table of their own."
    )


def _word(family: Family) -> str:
    return "ip" if family is Family.IPV4 else "ip6"
