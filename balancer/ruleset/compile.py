"""A document becomes a ruleset. Pure and deterministic: equal documents give equal bytes.

mangle  LB-LIMITS       counts connections, where a service limits them (`access`)
nat     LB-PREROUTING   dispatch to LB-S-<service>, which marks the connection and picks a backend (DNAT)
        LB-OUTPUT       the same for what the node itself sends, where a service takes that
        LB-POSTROUTING  rewrites the source of the connections that are marked for it
filter  LB-INPUT        refuses connections to services without a usable backend, drops INVALID packets
        LB-FORWARD      sent to a service; FORWARD also accepts balanced connections, whatever its policy
        LB-OUTPUT       refuses what the node itself sends to a service without a usable backend
raw     LB-PREROUTING   only with services that have a SYN proxy, as LB-OUTPUT in mangle (syn_proxy.py)

docs/design/ruleset.md explains each rule.
"""

from dataclasses import replace
from ipaddress import ip_network
from itertools import groupby

from balancer.domain.types import Document, Family, Protocol, Service
from balancer.ruleset import access, marks, names, syn_proxy
from balancer.ruleset.dispatch import dispatch, dispatch_from_node
from balancer.ruleset.invalid import invalid_chains
from balancer.ruleset.ir import Rule, Ruleset, Table, TableName
from balancer.ruleset.service import service_chains
from balancer.ruleset.targets import (
    Accept,
    Goto,
    Jump,
    Mark,
    Masquerade,
    Reject,
    RejectWith,
    Return,
    Snat,
    Target,
)

COMPILER = 3
"""Kept with each revision. Raise it with every change that makes other bytes of a document that there may be:
then what is live stays as it is on the nodes until a change brings it up to date (ADR 0016)."""

MARK_BALANCED, MARK_MASQUERADE, MARK_REFUSE = marks.BALANCED, marks.MASQUERADE, marks.REFUSE
MARK_MASK = marks.MASK

_NAT_JUMPS = (("PREROUTING", names.PREROUTING), ("POSTROUTING", names.POSTROUTING))
_FILTER_JUMPS = (("INPUT", names.INPUT), ("FORWARD", names.FORWARD))
_FROM_NODE_JUMPS = (("OUTPUT", names.OUTPUT),)
_LOOPBACK = {Family.IPV4: ip_network("127.0.0.0/8"), Family.IPV6: ip_network("::1/128")}
_POOLS_LIST_MAX = 16
_POOLS_BITS = 4


def compile_document(document: Document, *, family: Family = Family.IPV4) -> Ruleset:
    """The rules that carry the enabled services of one family.

    The document must have passed validation. The base chains are there even when nothing is balanced:
    established connections of a service that has gone are still accepted in FORWARD.
    """
    services = tuple(s for s in document.services if s.enabled and s.family is family)
    tables = (
        _mangle(services),
        _filter(services, family),
        _nat(services, family),
        syn_proxy.raw_table(services),
    )
    return Ruleset(
        family=family,
        tables=tuple(table for table in tables if table is not None),
        lists=access.lists_of(services),
    )


def _nat(services: tuple[Service, ...], family: Family) -> Table:
    pools = marks.pools_of(services)
    chains = dispatch(services, root=names.PREROUTING, target=_to_service)
    for service in services:
        chains.update(service_chains(service, pools))
        chain = names.service_chain(service.name)
        first = *syn_proxy.not_yet(service), *access.asks_access(service)
        chains[chain] = (*first, *chains[chain])
        chains.update(access.access_chains(service))
    chains.update(_postrouting(pools))
    from_node = tuple(service for service in services if service.from_node)
    if from_node:
        found = dispatch_from_node(from_node, root=names.OUTPUT, target=_to_service)
        # 127.0.0.1 is the node's own affair: what comes from there cannot leave the machine.
        own = Rule(destination=_LOOPBACK[family], target=Return())
        chains.update(found | {names.OUTPUT: (own, *found[names.OUTPUT])})
    proxied = syn_proxy.output_chains(services)
    if proxied:
        own_rules = chains.get(names.OUTPUT, ())
        chains.update(proxied | {names.OUTPUT: (syn_proxy.output_jump(), *own_rules)})
    jumps = _NAT_JUMPS + (_FROM_NODE_JUMPS if from_node or proxied else ())
    return Table(TableName.NAT, dict(sorted(chains.items())), jumps)


def _mangle(services: tuple[Service, ...]) -> Table | None:
    found = [table for table in (access.limits_table(services), syn_proxy.mangle_table(services)) if table]
    if not found:
        return None
    chains = {name: rules for table in found for name, rules in table.chains.items()}
    jumps = tuple(jump for table in found for jump in table.jumps)
    return Table(TableName.MANGLE, dict(sorted(chains.items())), jumps)


def _to_service(service: Service) -> Target:
    return Goto(names.service_chain(service.name))


def _postrouting(pools: marks.Pools) -> dict[str, tuple[Rule, ...]]:
    """Source addresses and pools by their number, then all that is just masqueraded."""
    chains: dict[str, tuple[Rule, ...]] = {}
    snat = [
        Rule(
            ct_state="DNAT",
            connmark=marks.rewritten(number, pools),
            target=Snat(nat.address, nat.address_end),
        )
        for nat, number in pools.items()
        if nat.address is not None
    ]
    if len(snat) > _POOLS_LIST_MAX:
        leading = []
        for block, group in groupby(pools.values(), key=lambda number: number >> _POOLS_BITS):
            chain = names.pools_chain(block)
            chains[chain] = tuple(snat[number - 1] for number in group)
            mark = marks.block_of_pools(block, _POOLS_BITS)
            leading.append(Rule(ct_state="DNAT", connmark=mark, target=Jump(chain)))
        snat = leading
    masquerade = Rule(ct_state="DNAT", connmark=marks.rewritten(0, {}), target=Masquerade())
    chains[names.POSTROUTING] = (*snat, masquerade)
    return chains


def _filter(services: tuple[Service, ...], family: Family) -> Table:
    chains = invalid_chains(services, family=family)
    invalid: tuple[Rule, ...] = ()
    if chains:
        invalid = (Rule(ct_state="INVALID", target=Jump(names.INVALID)),)
    balanced = Rule(
        ct_state="DNAT", connmark=Mark(MARK_BALANCED, MARK_BALANCED | MARK_REFUSE), target=Accept()
    )
    proxies = syn_proxy.proxy_chains(services)
    chains.update(proxies)
    denied = (access.drop_denied(),) if access.denies(services) else ()
    before = (*(syn_proxy.proxy_jumps() if proxies else ()), *invalid, *denied)
    chains[names.INPUT] = (*before, *_refuse(family))
    chains[names.FORWARD] = (balanced, *before, *_refuse(family))
    from_node = any(service.from_node for service in services)
    if from_node:
        # Only what begins: a refusal has the mark of what it refuses, and passes OUTPUT and, where the node
        # refuses itself, INPUT.
        begins = tuple(replace(rule, ct_state="NEW") for rule in _refuse(family))
        chains[names.OUTPUT] = (*denied, *begins)
        chains[names.INPUT] = (*before, *begins)
    elif proxies and denied:
        chains[names.OUTPUT] = denied
    jumps = _FILTER_JUMPS + (_FROM_NODE_JUMPS if names.OUTPUT in chains else ())
    return Table(TableName.FILTER, dict(sorted(chains.items())), jumps)


def _refuse(family: Family) -> tuple[Rule, ...]:
    unreachable = (
        RejectWith.ICMP_PORT_UNREACHABLE if family is Family.IPV4 else RejectWith.ICMP6_PORT_UNREACHABLE
    )
    return (
        Rule(protocol=Protocol.TCP, connmark=marks.REFUSED, target=Reject(RejectWith.TCP_RESET)),
        Rule(connmark=marks.REFUSED, target=Reject(unreachable)),
    )
