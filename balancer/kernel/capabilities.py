"""What this machine's kernel cannot carry, found out by trying it in a scratch namespace before it is needed.

Some forms of rule rest on modules and programs that not every machine has. A document that needs one of them
is refused as a whole, before anything is written, with the names of the services that need it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from balancer.domain.types import Document, Family, PersistenceMode, Protocol, Scheduler, Service
from balancer.kernel.base import Flavour, KernelError, Rejected
from balancer.kernel.pyiptables import run_child
from balancer.ruleset.ir import Rule
from balancer.ruleset.targets import LimitSegments, NoTrack, Remember, StripTimestamps, SynProxy

CHILD_MODULE = "balancer.kernel.capabilities_child"
TIMEOUT_SECONDS = 60


class Need(StrEnum):
    """What a service may ask of a kernel, beyond what every kernel with iptables and NAT has."""

    IPV6_NAT = "ipv6-nat"
    SCTP = "sctp"
    CLIENT_SETS = "client-sets"
    SOURCE_HASH = "source-hash"
    SYN_PROXY = "syn-proxy"
    NETWORK_SETS = "network-sets"
    NEW_RATE = "new-rate"
    CONNECTION_LIMIT = "connection-limit"
    LOG = "log"


Missing = Mapping[Need, str]
"""What cannot be had, and what the tool said that tried it."""
FindMissing = Callable[[Flavour, Family], Missing]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How a need is spoken of."""

    lacks: str
    """Completes "its kernel has no …"."""
    modules: Mapping[Flavour, str]
    otherwise: str
    """What to do with the service where the module cannot be had."""


def _both(modules: str) -> Mapping[Flavour, str]:
    return dict.fromkeys(Flavour, modules)


_WAYS = {
    Need.IPV6_NAT: _Way(
        lacks="NAT for IPv6",
        modules={Flavour.LEGACY: "module ip6table_nat", Flavour.NFT: "module nft_chain_nat"},
        otherwise="disable the service",
    ),
    Need.SCTP: _Way(
        lacks="SCTP for iptables", modules=_both("module xt_sctp"), otherwise="disable the service"
    ),
    Need.CLIENT_SETS: _Way(
        lacks="sets of clients for iptables",
        modules=_both("program ipset, modules ip_set_hash_ip and xt_set"),
        otherwise="turn its persistence off",
    ),
    Need.SOURCE_HASH: _Way(
        lacks="division of clients for iptables",
        modules=_both("modules xt_cluster and, for IPv6, xt_bpf"),
        otherwise="choose another scheduler than source-hash",
    ),
    Need.SYN_PROXY: _Way(
        lacks="SYN proxy for iptables",
        modules={
            Flavour.LEGACY: "modules xt_CT, iptable_raw, xt_TCPOPTSTRIP, xt_TCPMSS, ipt_SYNPROXY or"
            " ip6t_SYNPROXY",
            Flavour.NFT: "modules xt_CT, xt_TCPOPTSTRIP, xt_TCPMSS, ipt_SYNPROXY or ip6t_SYNPROXY",
        },
        otherwise="turn its SYN proxy off",
    ),
    Need.NETWORK_SETS: _Way(
        lacks="lists of networks for iptables",
        modules=_both("program ipset, modules ip_set_hash_net and xt_set"),
        otherwise="take its allow and deny lists out",
    ),
    Need.NEW_RATE: _Way(
        lacks="rates by source for iptables",
        modules=_both("module xt_hashlimit"),
        otherwise="take its limit of new connections per second out",
    ),
    Need.CONNECTION_LIMIT: _Way(
        lacks="counts of connections for iptables",
        modules=_both("module xt_connlimit"),
        otherwise="take its limits of connections out",
    ),
    Need.LOG: _Way(
        lacks="log for iptables",
        modules=_both("modules xt_LOG, xt_limit and nf_log_syslog"),
        otherwise="turn the log of what it refuses off",
    ),
}


def needs_of(service: Service) -> tuple[Need, ...]:
    """In the order of `Need`."""
    access = service.access
    needs = {
        Need.IPV6_NAT: service.family is Family.IPV6,
        Need.SCTP: service.protocol is Protocol.SCTP,
        Need.CLIENT_SETS: service.persistence.mode is not PersistenceMode.NONE,
        Need.SOURCE_HASH: service.scheduler is Scheduler.SOURCE_HASH,
        Need.SYN_PROXY: service.access.syn_proxy,
        Need.NETWORK_SETS: bool(access.allow or access.deny),
        Need.NEW_RATE: access.new_per_second_per_source is not None,
        Need.CONNECTION_LIMIT: (access.connections_per_source, access.connections_per_backend)
        != (None, None),
        Need.LOG: access.log_refused,
    }
    return tuple(need for need, wanted in needs.items() if wanted)


def need_of_rule(rule: Rule) -> Need | None:
    """What one rule rests on, of IPv4."""
    if rule.protocol is Protocol.SCTP:
        return Need.SCTP
    if rule.clients is not None or isinstance(rule.target, Remember):
        return Need.CLIENT_SETS
    if isinstance(rule.target, NoTrack | SynProxy | StripTimestamps | LimitSegments):
        return Need.SYN_PROXY
    if rule.listed is not None:
        return Need.NETWORK_SETS
    if rule.faster is not None:
        return Need.NEW_RATE
    if rule.more_than is not None:
        return Need.CONNECTION_LIMIT
    if rule.at_most is not None:
        return Need.LOG
    return Need.SOURCE_HASH if rule.source_hash is not None else None


def refuse_what_is_missing(
    document: Document, *, family: Family, flavour: Flavour, find: FindMissing
) -> None:
    """Raises Rejected where an enabled service of the family needs what the kernel does not have.

    `find` is asked only where something is needed.
    """
    needing: dict[Need, list[str]] = {}
    for service in document.services:
        if service.enabled and service.family is family:
            for need in needs_of(service):
                needing.setdefault(need, []).append(service.name)
    missing = find(flavour, family) if needing else {}
    for need in Need:
        if need in needing and need in missing:
            raise Rejected(_sentence(need, needing[need], flavour=flavour, said=missing[need]))


def describe_missing(missing: Missing, *, flavour: Flavour) -> tuple[str, ...]:
    """For the page of the node: `SCTP for iptables (module xt_sctp)`."""
    return tuple(f"{_WAYS[need].lacks} ({_WAYS[need].modules[flavour]})" for need in Need if need in missing)


def _sentence(need: Need, names: list[str], *, flavour: Flavour, said: str) -> str:
    way = _WAYS[need]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"This node cannot carry {shown}: its kernel has no {way.lacks} ({way.modules[flavour]}). Tried, it"
        f" said: {said.rstrip('.')}. Install or load that on the node, or {way.otherwise}."
        " Nothing was changed."
    )


_found: dict[tuple[Flavour, Family], Missing] = {}


def find_missing(flavour: Flavour, family: Family) -> Missing:
    """Tried in a scratch namespace; again each time while something is missing, and never once nothing is.

    What could not be tried does not count as missing: the write will tell.
    """
    if _found.get((flavour, family)) != {}:
        _found[flavour, family] = _try_in_child(flavour, family)
    return _found[flavour, family]


def recall_missing(flavour: Flavour, family: Family) -> Missing:
    """What `find_missing` found last in this process; nothing where it was not asked."""
    return _found.get((flavour, family), {})


def _try_in_child(flavour: Flavour, family: Family) -> Missing:
    request = {"flavour": flavour.value, "family": family.value}
    try:
        done = run_child(CHILD_MODULE, request=request, timeout_seconds=TIMEOUT_SECONDS)
        return {Need(need): str(said) for need, said in json.loads(done.output)["missing"].items()}
    except (KernelError, ValueError, KeyError, TypeError, AttributeError):
        return {}
