"""The sets of clients of the kernel in memory: there while rules name them, like the real ones."""

from balancer.domain.types import Document, Service
from balancer.kernel.client_sets import describe_gone, describe_made
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.sets import members_of_groups, read_set_name, sets_of, sets_to_forget


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
        return (*describe_made(len(wanted - there)), *describe_gone(there - wanted, document))

    def count(self) -> dict[str, int]:
        return {name: len(clients) for name, clients in self.clients.items()}

    def forget(self, service: Service, *, endpoint: str | None) -> int:
        gone = 0
        for name in sets_to_forget(service, endpoint=endpoint):
            gone += len(self.clients.get(name, ()))
            if name in self.clients:
                self.clients[name] = set()
        return gone
