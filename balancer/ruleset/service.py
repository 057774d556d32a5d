"""The chains of one service: its mark, the clients that it knows, a backend for those it does not; and one
for each backend, in which its connections are counted."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field

from balancer.domain.limits import BITS
from balancer.domain.types import Backend, BackendState, Family, PersistenceMode, Service
from balancer.ruleset import marks, names
from balancer.ruleset.dispatch import dispatch_sources
from balancer.ruleset.ir import Chance, Nth, Rule, SourceHash
from balancer.ruleset.schedulers import Choice, choose
from balancer.ruleset.targets import Accept, Dnat, Goto, Jump, Remember, SetConnMark

KNOWN_LIST_MAX = 32
"""Backends that a service with persistence looks through one by one; more of them are looked up in groups."""
KNOWN_GROUPS = 32

Chains = dict[str, tuple[Rule, ...]]


def service_chains(service: Service, pools: marks.Pools) -> Chains:
    """All chains that belong to the service alone, the one that dispatch leads to among them."""
    return _Service(service, pools).build()


def client_sets(service: Service) -> tuple[str, ...]:
    """The names of the sets in which a service with persistence keeps its clients, one for each backend."""
    return tuple(
        names.client_set(service.name, prefix_of(service), backend.address, backend.port)
        for backend in keepers(service)
    )


def prefix_of(service: Service) -> int:
    """Bits of a client's address that its set keeps."""
    prefix = service.persistence.prefix
    return BITS[service.family] if prefix is None else prefix


def keepers(service: Service) -> tuple[Backend, ...]:
    """The backends that keep the clients they have."""
    return tuple(backend for backend in service.backends if keeps_clients(service, backend))


def keeps_clients(service: Service, backend: Backend) -> bool:
    """A backend that is disabled or down lets its clients go at once."""
    persistent = service.persistence.mode is not PersistenceMode.NONE
    return persistent and backend.up and backend.state is not BackendState.DISABLED


@dataclass(slots=True)
class _Service:
    service: Service
    pools: marks.Pools
    chains: Chains = field(default_factory=dict)
    keepers: tuple[Backend, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.keepers = keepers(self.service)

    def build(self) -> Chains:
        service = self.service
        choice = choose(service)
        for backend in service.backends:
            self.chains[self._backend_chain(backend)] = self._backend(backend)
        known = self._known()
        rules: tuple[Rule, ...] = ()
        if choice is not None or known:
            rules = (Rule(target=SetConnMark(marks.balanced(service, self.pools))), *self._hairpin(), *known)
        if service.stand_in is not None:
            rules = (*rules, Rule(target=Goto(names.service_chain(service.stand_in))))
        elif choice is None:
            # ACCEPT ends the walk in nat, so that no rule behind ours sends the connection elsewhere.
            rules = (*rules, Rule(target=SetConnMark(marks.REFUSED)), Rule(target=Accept()))
        else:
            rules = (*rules, *self._choice(choice, path=()))
        self.chains[names.service_chain(service.name)] = rules
        return self.chains

    def _hairpin(self) -> tuple[Rule, ...]:
        """A backend that uses its own service gets its answers through the node, or not at all."""
        service = self.service
        if not service.source_nat.hairpin:
            return ()
        chain = names.hairpin_chain(service.name, None)
        self.chains |= dispatch_sources(
            (backend.address for backend in service.backends),
            target=SetConnMark(marks.rewritten(0, self.pools)),
            name=lambda network: names.hairpin_chain(service.name, network),
        )
        return (Rule(target=Jump(chain)),)

    def _known(self) -> tuple[Rule, ...]:
        """A client whom a backend has goes there again, whatever the scheduler would say."""
        keep = self.keepers
        if len(keep) <= KNOWN_LIST_MAX:
            return tuple(self._known_at(backend) for backend in keep)
        rules = []
        for group, members in sorted(self._groups(keep).items()):
            chain = names.known_chain(self.service.name, group)
            self.chains[chain] = tuple(self._known_at(backend) for backend in members)
            rules.append(Rule(clients=self._group_set(group), target=Jump(chain)))
        return tuple(rules)

    def _known_at(self, backend: Backend) -> Rule:
        return Rule(clients=self._set(backend), target=Goto(self._backend_chain(backend)))

    def _backend(self, backend: Backend) -> tuple[Rule, ...]:
        """Depends on nothing but the backend. So it stays as it is and goes on counting, whatever becomes of
        others, of weights and of the scheduler, and while the backend gets no connections."""
        return *self._remember(backend), Rule(protocol=self.service.protocol, target=self._dnat(backend))

    def _remember(self, backend: Backend) -> tuple[Rule, ...]:
        if not keeps_clients(self.service, backend):
            return ()
        sets = [self._set(backend)]
        if len(self.keepers) > KNOWN_LIST_MAX:
            sets.append(self._group_set(group_of(backend)))
        return tuple(Rule(target=Remember(clients, self.service.persistence.timeout)) for clients in sets)

    def _groups(self, keep: tuple[Backend, ...]) -> dict[int, list[Backend]]:
        groups: dict[int, list[Backend]] = defaultdict(list)
        for backend in keep:
            groups[group_of(backend)].append(backend)
        return groups

    def _choice(self, choice: Choice, *, path: tuple[int, ...]) -> tuple[Rule, ...]:
        rules = []
        for index, branch in enumerate(choice.branches):
            if isinstance(branch.to, Backend):
                chain = self._backend_chain(branch.to)
            else:
                inner = (*path, index)
                chain = names.part_chain(self.service.name, inner)
                self.chains[chain] = self._choice(branch.to, path=inner)
            condition = branch.condition
            rules.append(
                Rule(
                    statistic=condition if isinstance(condition, Nth | Chance) else None,
                    source_hash=condition if isinstance(condition, SourceHash) else None,
                    target=Goto(chain),
                )
            )
        return tuple(rules)

    def _dnat(self, backend: Backend) -> Dnat:
        service, span = self.service, self.service.span
        if span.first == span.last:
            return Dnat(backend.address, backend.port)
        if backend.port == service.port:
            return Dnat(backend.address, None)
        low, high = (service.backend_port(backend, port) for port in (span.first, span.last))
        return Dnat(backend.address, low, last=high, base=span.first)

    def _backend_chain(self, backend: Backend) -> str:
        return names.backend_chain(self.service.name, backend.address, backend.port)

    def _set(self, backend: Backend) -> str:
        return names.client_set(self.service.name, prefix_of(self.service), backend.address, backend.port)

    def _group_set(self, group: int) -> str:
        version = 6 if self.service.family is Family.IPV6 else 4
        return names.client_group_set(self.service.name, prefix_of(self.service), version, group)


def group_of(backend: Backend) -> int:
    """By the backend's own endpoint, so that others may come and go."""
    return hashlib.sha256(backend.endpoint.encode()).digest()[0] % KNOWN_GROUPS
