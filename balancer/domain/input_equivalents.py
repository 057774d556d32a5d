"""What rules of INPUT would do for a published service, said as its access lists.

Packets that a service redirects never meet INPUT (`advice`). Access lists know networks of clients and
nothing else, and who is in both lists is denied. A rule that asks for more is told with the reason, and never
translated into something wider.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from balancer.domain.observation import DROP, InputPath, InputRule, interface_matches
from balancer.domain.types import Access, Network, Service


@dataclass(frozen=True, slots=True)
class Said:
    """A rule and what becomes of it."""

    rule: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalent:
    """What would be added to the access lists of a service."""

    deny: tuple[Network, ...] = ()
    allow: tuple[Network, ...] = ()
    said: tuple[Said, ...] = ()
    """Rules that the additions stand for, or that are said already."""
    unsaid: tuple[Said, ...] = ()
    """Rules that could drop clients of the service and cannot be said, with the reason."""

    @property
    def adds(self) -> bool:
        return bool(self.deny or self.allow)

    def add_to(self, access: Access) -> Access:
        return replace(
            access, deny=_sorted({*access.deny, *self.deny}), allow=_sorted({*access.allow, *self.allow})
        )


def find_equivalent(*, service: Service, paths: Iterable[InputPath]) -> Equivalent:
    """Of all paths together: a packet has to pass every one of them."""
    walks = [_walk(service, path) for path in paths if path.family is service.family]
    said = [one for walk in walks for one in walk.said]
    unsaid = [one for walk in walks for one in walk.unsaid]
    deny = [network for walk in walks for network in walk.denied]
    lists = [walk.allowed for walk in walks if walk.allowed]
    allow = _meet(lists)
    if lists and not allow:
        unsaid.append(Said(_policies(walks), "the chains let in different clients: nobody is left"))
    known = service.access
    deny = [network for network in _collapse(deny) if not _is_in(network, known.deny)]
    if allow and known.allow:
        if not all(_is_in(network, allow) for network in known.allow):
            words = f"the service has an allow list already, which lets in more than {_name(allow)}"
            unsaid.append(Said(_policies(walks), words))
        allow = []
    return Equivalent(
        deny=_sorted(deny), allow=_sorted(allow), said=tuple(_unique(said)), unsaid=tuple(_unique(unsaid))
    )


@dataclass(slots=True)
class _Walk:
    """One path of INPUT, walked from its first rule to its last."""

    denying: dict[str, list[Network]] = field(default_factory=dict)
    """Rule -> whom it denies; a rule of nft may be about many networks."""
    closing: list[Said] = field(default_factory=list)
    unsaid: list[Said] = field(default_factory=list)
    accepted: list[Network] = field(default_factory=list)
    denied: list[Network] = field(default_factory=list)
    allowed: list[Network] = field(default_factory=list)
    """The only ones that get in; empty: everybody that is not denied."""
    closed_by: str = ""
    """The rule or policy that keeps everybody else out."""
    unclear: list[InputRule] = field(default_factory=list)
    """Rules that accept some clients, nobody can say which."""

    @property
    def said(self) -> list[Said]:
        denied = [Said(text, f"denies {_name(_collapse(left))}") for text, left in self.denying.items()]
        return [*denied, *self.closing]


def _walk(service: Service, path: InputPath) -> _Walk:
    walk = _Walk()
    for rule in path.rules:
        if not rule.could_match(service):
            continue
        why_not = _why_not(service, rule)
        if why_not and rule.drops:
            walk.unsaid.append(Said(rule.text, why_not))
        elif why_not:
            walk.unclear.append(rule)
        elif rule.source is None:
            if rule.drops:
                _close(walk, rule.text)
            return walk
        elif rule.drops:
            _deny(walk, rule, rule.source)
        else:
            walk.accepted.append(rule.source)
    if unknown := _unknown(path):
        walk.unsaid.append(Said("…", unknown))
    elif path.policy == DROP:
        _close(walk, path.policy_text)
    return walk


def _unknown(path: InputPath) -> str:
    """What nobody knows of the rules behind those that are kept."""
    if path.left_out:
        return f"{path.left_out} more rules of {path.tool} were not kept; look at them on the node"
    return path.not_read.rstrip(".")


def _policies(walks: Sequence[_Walk]) -> str:
    return "; ".join(walk.closed_by for walk in walks if walk.allowed)


def _why_not(service: Service, rule: InputRule) -> str:
    """Why an access list cannot say it; empty where it can."""
    if not rule.exact:
        asked = " and ".join(rule.unread) or "more than an access list knows"
        return f"it asks for {asked}"
    if rule.in_interface is not None and not all(
        interface_matches(rule.in_interface, interface) for interface in service.interfaces
    ):
        return f"it is about {rule.in_interface} only, and the service takes clients on other interfaces too"
    if rule.ports is not None and not _holds_ports(rule.ports, service):
        return "it is about some of the service's ports only, and access lists are about all of them"
    if rule.destination is not None and not (
        service.addresses and all(address in rule.destination for address in service.addresses)
    ):
        return f"it is about {rule.destination} only, and the service is at other addresses too"
    return ""


def _deny(walk: _Walk, rule: InputRule, source: Network) -> None:
    unclear = next((one for one in walk.unclear if one.source is None or one.source.overlaps(source)), None)
    if unclear is not None:
        walk.unsaid.append(Said(rule.text, f"“{unclear.text}” before it lets some of these clients in"))
        return
    left = _subtract([source], walk.accepted)
    if not left:
        return  # others before it have decided about all of them
    walk.denied += left
    walk.denying.setdefault(rule.text, []).extend(left)


def _close(walk: _Walk, text: str) -> None:
    """Everybody who was not accepted is dropped."""
    if walk.unclear:
        words = f"“{walk.unclear[0].text}” before it lets in clients that an access list cannot name"
        walk.unsaid.append(Said(text, words))
    elif walk.accepted:
        walk.allowed, walk.closed_by = _collapse(walk.accepted), text
        walk.closing.append(Said(text, f"allows {_name(walk.allowed)} and nobody else"))
    else:
        words = "it closes the port to everybody: disable the service if nobody is meant to reach it"
        walk.unsaid.append(Said(text, words))


def _holds_ports(ports: Sequence[tuple[int, int]], service: Service) -> bool:
    return all(
        any(first <= own.first and own.last <= last for first, last in ports) for own in service.port_ranges
    )


def _subtract(networks: Sequence[Network], holes: Iterable[Network]) -> list[Network]:
    left = list(networks)
    for hole in holes:
        parts: list[Network] = []
        for network in left:
            if not network.overlaps(hole):
                parts.append(network)
            elif hole.prefixlen > network.prefixlen:
                parts += network.address_exclude(hole)  # type: ignore[arg-type]
        left = parts
    return left


def _meet(lists: Sequence[Sequence[Network]]) -> list[Network]:
    """Networks that are in every one of the lists; none where there is no list."""
    if not lists:
        return []
    found = list(lists[0])
    for other in lists[1:]:
        pairs = ((one, two) for one in found for two in other if one.overlaps(two))
        found = [max(pair, key=lambda network: network.prefixlen) for pair in pairs]
    return found


def _collapse(networks: Sequence[Network]) -> list[Network]:
    """Neighbours joined, and what is inside of others left out."""
    ipv4 = collapse_addresses(network for network in networks if isinstance(network, IPv4Network))
    ipv6 = collapse_addresses(network for network in networks if isinstance(network, IPv6Network))
    return [*ipv4, *ipv6]


def _is_in(network: Network, others: Iterable[Network]) -> bool:
    return any(network.overlaps(other) and other.prefixlen <= network.prefixlen for other in others)


def _sorted(networks: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen)))


def _unique(found: Iterable[Said]) -> list[Said]:
    return list(dict.fromkeys(found))


def _name(networks: Sequence[Network]) -> str:
    names = [str(network) for network in _sorted(networks)]
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
