"""What a node was seen to do: the connections that it balances, where it listens itself, what INPUT drops.

Values only; `kernel.observe` makes them, a row keeps them as JSON data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from balancer.domain.types import Address, Family, Network, Protocol, Service

ACCEPT, DROP, REJECT = "ACCEPT", "DROP", "REJECT"
NATIVE = "native"
"""In the place of a flavour: rules of nft itself."""
ANY_OF_BOTH_FAMILIES = "*"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ConnectionCount:
    """Connection tracking entries from any client to one address and port that one backend answers."""

    protocol: Protocol
    address: Address
    """Where the clients sent their packets: the original destination."""
    port: int
    backend: str
    """Its endpoint. Empty for UDP flows to the machine itself, which nothing balances yet."""
    entries: int
    established: int
    """TCP: those in the state ESTABLISHED. UDP knows no such state, there it equals `entries`."""

    def to_data(self) -> list[object]:
        """A list and not an object: a busy node has tens of thousands of these."""
        kept = (self.protocol.value, str(self.address), self.port, self.backend)
        return [*kept, self.entries, self.established]

    @classmethod
    def from_data(cls, data: list[Any]) -> "ConnectionCount":
        protocol, address, port, backend, entries, established = data
        return cls(
            protocol=Protocol(protocol),
            address=ip_address(address),
            port=port,
            backend=backend,
            entries=entries,
            established=established,
        )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Listener:
    """A socket at which a program of the machine takes packets from others; loopback is left out."""

    protocol: Protocol
    address: str
    """As ss prints it: `*` is any address of both families, `0.0.0.0` and `::` are any of one."""
    port: int
    interface: str = ""
    """The only interface that it is bound to; empty for all."""

    def shares_endpoint_with(self, service: Service) -> bool:
        """Whether packets for this socket are packets for the service."""
        if self.protocol is not service.protocol or not service.takes_port(self.port):
            return False
        if self.interface not in {"", *service.interfaces}:
            return False
        return self._is_at(service)

    @property
    def place(self) -> str:
        """`198.51.100.1:443`, `*:22`, `0.0.0.0:67 on eth1`."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}" + (f" on {self.interface}" if self.interface else "")

    def _is_at(self, service: Service) -> bool:
        if self.address == ANY_OF_BOTH_FAMILIES:
            return True
        address = ip_address(self.address)
        if address.version != (6 if service.family == "ipv6" else 4):
            return False
        return address.is_unspecified or not service.addresses or address in service.addresses

    def to_data(self) -> list[object]:
        return [self.protocol.value, self.address, self.port, self.interface]

    @classmethod
    def from_data(cls, data: list[Any]) -> "Listener":
        protocol, address, port, interface = data
        return cls(protocol=Protocol(protocol), address=address, port=port, interface=interface)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRule:
    """A rule on the way through INPUT that ends it, and the packets it is about as far as that is understood.

    None stands for any, also where the rule says something that is not understood; then `exact` is false and
    the rule is about some of these packets only.
    """

    text: str
    """As saved: `-A f2b-sshd -s 203.0.113.9/32 -j REJECT`."""
    chain: str
    verdict: str
    """ACCEPT, DROP or REJECT."""
    protocol: Protocol | None = None
    ports: tuple[tuple[int, int], ...] | None = None
    """Of the destination, first and last."""
    in_interface: str | None = None
    """With a trailing `+` where it is a prefix."""
    source: Network | None = None
    destination: Network | None = None
    exact: bool = True
    unread: tuple[str, ...] = ()
    """What it says that is not understood, in words: `a rate limit`, `a negation (! -s)`."""

    @property
    def drops(self) -> bool:
        return self.verdict != ACCEPT

    def could_match(self, service: Service) -> bool:
        """Whether some client's packet to the service would meet the rule, if it went through INPUT."""
        return (
            self.protocol in {None, service.protocol}
            and (self.ports is None or any(_overlap(ports, service) for ports in self.ports))
            and (self.in_interface is None or _comes_in(self.in_interface, service))
            and (self.destination is None or _goes_to(self.destination, service))
        )

    def covers(self, service: Service) -> bool:
        """Whether every client's packet to the service would meet the rule, if it went through INPUT."""
        return (
            self.exact
            and self.source is None
            and self.could_match(service)
            and (self.ports is None or any(_contain(ports, service) for ports in self.ports))
            and (self.destination is None or service.address is not None)
        )

    def to_data(self) -> dict[str, object]:
        return {
            "text": self.text,
            "chain": self.chain,
            "verdict": self.verdict,
            "protocol": self.protocol.value if self.protocol else None,
            "ports": [list(ports) for ports in self.ports] if self.ports is not None else None,
            "in_interface": self.in_interface,
            "source": str(self.source) if self.source else None,
            "destination": str(self.destination) if self.destination else None,
            "exact": self.exact,
            "unread": list(self.unread),
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "InputRule":
        return cls(
            text=data["text"],
            chain=data["chain"],
            verdict=data["verdict"],
            protocol=Protocol(data["protocol"]) if data["protocol"] else None,
            ports=None if data["ports"] is None else tuple((first, last) for first, last in data["ports"]),
            in_interface=data["in_interface"],
            source=ip_network(data["source"]) if data["source"] else None,
            destination=ip_network(data["destination"]) if data["destination"] else None,
            exact=data["exact"],
            unread=tuple(data.get("unread", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPath:
    """What one flavour of iptables, or one chain of nft itself, does with one family's packets to the machine
    itself; they pass every one of these."""

    flavour: str
    """legacy or nft; `native` for a chain of nft itself."""
    chain: str = ""
    """Of nft: `inet filter input`."""
    family: Family = Family.IPV4
    policy: str = ACCEPT
    """What becomes of packets that no rule decides about: ACCEPT or DROP."""
    rules: tuple[InputRule, ...] = ()
    """In the order in which a packet meets them."""
    left_out: int = 0
    """Rules beyond the number that is kept."""
    not_read: str = ""
    """A sentence where nobody knows what it does."""

    @property
    def tool(self) -> str:
        """What shows it: `iptables-nft`, `ip6tables-legacy`, `nft inet filter input`."""
        if self.flavour == NATIVE:
            return f"nft {self.chain}".strip()
        return f"{'iptables' if self.family is Family.IPV4 else 'ip6tables'}-{self.flavour}"

    @property
    def policy_text(self) -> str:
        """As the rules are told: `-P INPUT DROP`, `nft inet filter input: policy drop`."""
        return f"{self.tool}: policy {self.policy.lower()}" if self.chain else f"-P INPUT {self.policy}"

    def rules_against(self, service: Service) -> tuple[tuple[InputRule, ...], bool]:
        """The rules that could drop a client's packet to the service, and whether the policy could."""
        met: list[InputRule] = []
        if service.family is not self.family:
            return (), False
        for rule in self.rules:
            if rule.drops and rule.could_match(service):
                met.append(rule)
            if rule.covers(service):
                return tuple(met), False
        return tuple(met), self.policy == DROP

    def to_data(self) -> dict[str, object]:
        rules = [rule.to_data() for rule in self.rules]
        return {
            "flavour": self.flavour,
            "family": self.family.value,
            "policy": self.policy,
            "rules": rules,
            "left_out": self.left_out,
            "chain": self.chain,
            "not_read": self.not_read,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "InputPath":
        rules = tuple(InputRule.from_data(rule) for rule in data["rules"])
        return cls(
            flavour=data["flavour"],
            family=Family(data.get("family", Family.IPV4)),
            policy=data["policy"],
            rules=rules,
            left_out=data["left_out"],
            chain=data.get("chain", ""),
            not_read=data.get("not_read", ""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look at a node."""

    connections: tuple[ConnectionCount, ...] = ()
    """Sorted; those that our services balance, and UDP flows to the machine itself."""
    listeners: tuple[Listener, ...] = ()
    """Sorted."""
    inputs: tuple[InputPath, ...] = ()
    """One for each flavour whose tools the machine has, of each family; of IPv4 first, and ours first. Behind
    them chains of nft itself."""
    duration_ms: int = 0
    """What the look cost."""

    @property
    def balanced(self) -> int:
        """Connections that are with a backend now."""
        return sum(found.established for found in self.connections if found.backend)

    def to_data(self) -> dict[str, object]:
        """Plain JSON-able data."""
        return {
            "connections": [found.to_data() for found in self.connections],
            "listeners": [found.to_data() for found in self.listeners],
            "inputs": [found.to_data() for found in self.inputs],
            "duration_ms": self.duration_ms,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> "Observation":
        """The inverse of `to_data`. KeyError, TypeError or ValueError for anything else."""
        return cls(
            connections=tuple(ConnectionCount.from_data(found) for found in data["connections"]),
            listeners=tuple(Listener.from_data(found) for found in data["listeners"]),
            inputs=tuple(InputPath.from_data(found) for found in data["inputs"]),
            duration_ms=data["duration_ms"],
        )


def interface_matches(pattern: str, interface: str) -> bool:
    """As iptables compares: a trailing `+` stands for any rest."""
    return interface.startswith(pattern[:-1]) if pattern.endswith("+") else pattern == interface


def _comes_in(pattern: str, service: Service) -> bool:
    return any(interface_matches(pattern, interface) for interface in service.interfaces)


def _goes_to(destination: Network, service: Service) -> bool:
    return not service.addresses or any(address in destination for address in service.addresses)


def _overlap(ports: tuple[int, int], service: Service) -> bool:
    return any(ports[0] <= own.last and own.first <= ports[1] for own in service.port_ranges)


def _contain(ports: tuple[int, int], service: Service) -> bool:
    return all(ports[0] <= own.first and own.last <= ports[1] for own in service.port_ranges)
