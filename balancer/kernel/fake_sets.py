"""The sets of clients of the kernel in memory: there while rules name them, like the real ones."""

from balancer.domain.types import Document, Service
from balancer.kernel import client_sets
from balancer.kernel.client_sets import describe_gone
from balancer.kernel.network_sets import describe_lists, describe_made
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.networks import family_of_list
from balancer.ruleset.sets import members_of_groups, read_set_name, sets_of, sets_to_forget


class FakeLists:
    """List of networks -> what is in it, as text. Tests may tamper with it."""

    def __init__(self) -> None:
        self.held: dict[str, set[str]] = {}

    def follow(self, ruleset: Ruleset) -> tuple[str, ...]:
        """The rules are in: their lists hold what they should, and the others of their family are gone."""
        wanted = {name: set(map(str, networks)) for name, networks in ruleset.lists.items()}
        there = {name: held for name, held in self.held.items() if family_of_list(name) is ruleset.family}
        mended = sum(there[name] != wanted[name] for name in wanted.keys() & there.keys())
        made = len(wanted.keys() - there.keys())
        self.held = {name: held for name, held in self.held.items() if name not in there} | wanted
        return describe_made(made, mended=mended)

    def compare(self, ruleset: Ruleset) -> tuple[str, ...]:
        return describe_lists(ruleset, held=self.held)


class FakeSets:
    """Set -> the clients in it. Nothing is ever forgotten for its age: nobody counts seconds here."""

    def __init__(self) -> None:
        self.clients: dict[str, set[str]] = {}

    def follow(self, ruleset: Ruleset, *, document: Document) -> tuple[str, ...]:
        """The rules are in: makes the sets that they name, drops what they do not; says so in sentences."""
        wanted = {one.name for one in sets_of(ruleset)}
        there = {
            name
            for name in self.clients
            if (known := read_set_name(name)) is not None and known.family is ruleset.family
        }
        for name in there - wanted:
            del self.clients[name]
        groups = members_of_groups(ruleset)
        for name in wanted - there:
            known_already = (self.clients.get(member, set()) for member in groups.get(name, ()))
            self.clients[name] = set().union(*known_already)
        return (*client_sets.describe_made(len(wanted - there)), *describe_gone(there - wanted, document))

    def count(self) -> dict[str, int]:
        return {name: len(clients) for name, clients in self.clients.items()}

    def forget(self, service: Service, *, endpoint: str | None) -> int:
        gone = 0
        for name in sets_to_forget(service, endpoint=endpoint):
            gone += len(self.clients.get(name, ()))
            if name in self.clients:
                self.clients[name] = set()
        return gone
