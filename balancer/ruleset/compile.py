"""A document becomes a ruleset. Pure and deterministic: equal documents give equal bytes.

nat     LB-PREROUTING   dispatch to LB-S-<service>, which marks the connection and picks a backend (DNAT)
        LB-POSTROUTING  masquerades the connections marked for it
filter  LB-INPUT        refuses connections to services without a usable backend, drops INVALID packets
        LB-FORWARD      sent to a service; FORWARD also accepts balanced connections, whatever its policy

docs/design/ruleset.md explains each rule.
"""

from balancer.domain.types import Backend, Document, Family, Protocol, Service, SourceNatMode
from balancer.ruleset import names
from balancer.ruleset.dispatch import dispatch
from balancer.ruleset.ir import (
    Accept,
    Dnat,
    Drop,
    Goto,
    Jump,
    Mark,
    Masquerade,
    Reject,
    RejectWith,
    Return,
    Rule,
    Ruleset,
    SetConnMark,
    Table,
    TableName,
    Target,
)
from balancer.ruleset.schedulers import Choice, choose

MARK_BALANCED = 0x10000000
MARK_MASQUERADE = 0x20000000
MARK_REFUSE = 0x40000000
MARK_MASK = MARK_BALANCED | MARK_MASQUERADE | MARK_REFUSE

_NAT_JUMPS = (("PREROUTING", names.PREROUTING), ("POSTROUTING", names.POSTROUTING))
_FILTER_JUMPS = (("INPUT", names.INPUT), ("FORWARD", names.FORWARD))


def compile_document(document: Document, *, family: Family = Family.IPV4) -> Ruleset:
    """The rules that carry the enabled services of one family.

    The document must have passed validation. The base chains are there even when nothing is balanced:
    established connections of a service that has gone are still accepted in FORWARD.
    """
    services = tuple(s for s in document.services if s.enabled and s.family is family)
    return Ruleset(family=family, tables=(_filter(services, family), _nat(services)))


def _nat(services: tuple[Service, ...]) -> Table:
    chains = dispatch(services, root=names.PREROUTING, target=lambda s: Goto(names.service_chain(s.name)))
    for service in services:
        chains.update(_service_chains(service))
    chains[names.POSTROUTING] = (
        Rule(
            ct_state="DNAT",
            connmark=Mark(MARK_BALANCED | MARK_MASQUERADE, MARK_MASK),
            target=Masquerade(),
        ),
    )
    return Table(TableName.NAT, dict(sorted(chains.items())), _NAT_JUMPS)


def _filter(services: tuple[Service, ...], family: Family) -> Table:
    chains: dict[str, tuple[Rule, ...]] = {}
    invalid: tuple[Rule, ...] = ()
    if any(service.access.drop_invalid for service in services):
        chains = dispatch(services, root=names.INVALID, target=_invalid_target)
        invalid = (Rule(ct_state="INVALID", target=Jump(names.INVALID)),)
    balanced = Rule(
        ct_state="DNAT", connmark=Mark(MARK_BALANCED, MARK_BALANCED | MARK_REFUSE), target=Accept()
    )
    chains[names.INPUT] = (*invalid, *_refuse(family))
    chains[names.FORWARD] = (balanced, *invalid, *_refuse(family))
    return Table(TableName.FILTER, dict(sorted(chains.items())), _FILTER_JUMPS)


def _invalid_target(service: Service) -> Target:
    return Drop() if service.access.drop_invalid else Return()


def _refuse(family: Family) -> tuple[Rule, ...]:
    marked = Mark(MARK_REFUSE, MARK_MASK)
    unreachable = (
        RejectWith.ICMP_PORT_UNREACHABLE if family is Family.IPV4 else RejectWith.ICMP6_PORT_UNREACHABLE
    )
    return (
        Rule(protocol=Protocol.TCP, connmark=marked, target=Reject(RejectWith.TCP_RESET)),
        Rule(connmark=marked, target=Reject(unreachable)),
    )


def _service_chains(service: Service) -> dict[str, tuple[Rule, ...]]:
    chain = names.service_chain(service.name)
    choice = choose(service)
    if choice is None:
        # ACCEPT ends the walk in nat, so that no rule behind ours sends the connection elsewhere.
        return {chain: (Rule(target=SetConnMark(Mark(MARK_REFUSE, MARK_MASK))), Rule(target=Accept()))}
    chains: dict[str, tuple[Rule, ...]] = {}
    rules = _choice_rules(service, choice, path=(), chains=chains)
    chains[chain] = (Rule(target=SetConnMark(Mark(_mark(service), MARK_MASK))), *rules)
    return chains


def _mark(service: Service) -> int:
    masquerade = service.source_nat.mode is SourceNatMode.MASQUERADE
    return MARK_BALANCED | (MARK_MASQUERADE if masquerade else 0)


def _choice_rules(
    service: Service, choice: Choice, *, path: tuple[int, ...], chains: dict[str, tuple[Rule, ...]]
) -> tuple[Rule, ...]:
    rules = []
    for index, branch in enumerate(choice.branches):
        target: Target
        if isinstance(branch.to, Backend):
            target = Dnat(branch.to.address, branch.to.port)
        else:
            inner = (*path, index)
            name = names.part_chain(service.name, inner)
            chains[name] = _choice_rules(service, branch.to, path=inner, chains=chains)
            target = Goto(name)
        rules.append(Rule(protocol=service.protocol, statistic=branch.statistic, target=target))
    return tuple(rules)
