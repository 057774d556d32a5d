"""How many chains nft lets a packet be led through, said before the kernel says "Too many links"."""

from balancer.domain.types import Document
from balancer.kernel.base import Flavour, Rejected
from balancer.ruleset import names
from balancer.ruleset.depth import deepest_way
from balancer.ruleset.ir import Ruleset

NFT_CHAINS_MAX = 16
"""NFT_JUMP_STACK_SIZE (include/net/netfilter/nf_tables.h): on one way, the built-in one among them."""


def look_at_depth(ruleset: Ruleset, *, document: Document, flavour: Flavour) -> tuple[str, ...]:
    """Warnings, where it would become too deep if backends went down. Raises Rejected where it is already."""
    if flavour is not Flavour.NFT:
        return ()
    at_worst = deepest_way(ruleset, stand_ins=document.services)
    if len(at_worst) <= NFT_CHAINS_MAX:
        return ()
    now = deepest_way(ruleset)
    if len(now) > NFT_CHAINS_MAX:
        raise Rejected(
            f"This node cannot carry {_on(now, document)}: a connection would be led through {_count(now)}."
            f" {_OTHERWISE} Nothing was changed."
        )
    return (
        f"If all backends of {_on(at_worst, document)} went down, this node could not carry it: a connection"
        f" would be led through {_count(at_worst)}. {_OTHERWISE}",
    )


def refuse_depth_at_worst(ruleset: Ruleset, *, document: Document, flavour: Flavour) -> None:
    """Raises Rejected also where it would become too deep if backends went down."""
    for warning in look_at_depth(ruleset, document=document, flavour=flavour):
        raise Rejected(warning)


_OTHERWISE = (
    "Let fewer services stand in for one another (all_down_service), or give the last of them fewer backends,"
    " or use iptables-legacy on the node."
)


def _count(way: tuple[str, ...]) -> str:
    return f"{len(way)} chains of rules, and iptables-nft takes {NFT_CHAINS_MAX}"


def _on(way: tuple[str, ...], document: Document) -> str:
    """The services on the way, in its order."""
    services = {names.service_chain(service.name): service.name for service in document.services}
    found = [services[chain] for chain in way if chain in services]
    return ", ".join(found) if found else "these services"
