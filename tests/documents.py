"""Documents for tests: the article's, and arbitrary ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from balancer.domain.codec import parse_document
from balancer.domain.health_overlay import HealthOverlay, decide_overlay, with_health
from balancer.domain.own_weights import has_own_weights, with_own_weights
from balancer.domain.problem import Problem, errors
from balancer.domain.types import Document, Family, Scheduler

Data = dict[str, Any]


def backend_data(address: str = "10.0.0.3", **fields: Any) -> Data:
    return {"address": address, **fields}


def service_data(name: str = "web", **fields: Any) -> Data:
    """The article's service: eth0, tcp 80, four backends."""
    defaults: Data = {"name": name, "interface": "eth0", "protocol": "tcp", "port": 80}
    backends = [backend_data(f"10.0.0.{last}") for last in range(3, 7)]
    return {**defaults, "backends": backends, **fields}


def document_data(*services: Data) -> Data:
    return {"services": list(services)}


def document(*services: Data) -> Document:
    """A document that must be valid."""
    parsed, problems = parse_document(document_data(*services))
    assert parsed is not None, problems
    return parsed


def problems_of(*services: Data) -> tuple[Problem, ...]:
    return errors(parse_document(document_data(*services))[1])


@st.composite
def services_data(draw: st.DrawFn, name: str, port: int) -> Data:
    addresses = draw(st.lists(st.integers(2, 250), max_size=12, unique=True))
    backends = [
        backend_data(
            f"10.0.0.{last}",
            port=draw(st.sampled_from([80, 8080])),
            weight=draw(st.integers(1, 10)),
            state=draw(st.sampled_from(["enabled", "enabled", "enabled", "draining", "disabled"])),
        )
        for last in addresses
    ]
    return service_data(
        name,
        enabled=draw(st.sampled_from([True, True, True, False])),
        interface=draw(st.sampled_from(["eth0", "eth1", "bond0.100"])),
        protocol=draw(st.sampled_from(["tcp", "udp"])),
        address=draw(st.sampled_from([None, None, "203.0.113.1", "203.0.113.2", "198.51.100.77"])),
        port=port,
        scheduler=draw(st.sampled_from(["round-robin", "random"])),
        source_nat={"mode": draw(st.sampled_from(["masquerade", "none"]))},
        access={"drop_invalid": draw(st.booleans())},
        backends=backends,
    )


@st.composite
def documents(draw: st.DrawFn, max_services: int = 12) -> Document:
    """Valid documents; ports are few, so that services share ports, interfaces and addresses."""
    count = draw(st.integers(0, max_services))
    chosen: dict[tuple[Any, ...], Data] = {}
    for index in range(count):
        port = draw(st.one_of(st.sampled_from([53, 80, 81, 443, 8080]), st.integers(1, 65535)))
        data = draw(services_data(f"s{index}", port))
        chosen[data["interface"], data["protocol"], data["address"], data["port"]] = data
    return document(*chosen.values())


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the arbitrary documents of one family happen. The lab of tests/kernel/behaviours has it all."""

    virtual: tuple[str, ...]
    """Addresses of the node."""
    backends: str
    pool: str
    prefixes: tuple[int | None, ...]
    """Bits that persistence keeps."""
    clients: str
    nobody: str
    everybody: str


SCENES = {
    Family.IPV4: Scene(
        virtual=tuple(f"203.0.113.{n}" for n in range(1, 5)),
        backends="10.1.0.{}",
        pool="10.9.0.{}",
        prefixes=(None, 24),
        clients="64.0.0.0/3",
        nobody="192.0.2.0/24",
        everybody="0.0.0.0/0",
    ),
    Family.IPV6: Scene(
        virtual=tuple(f"2001:db8:203::{n}" for n in range(1, 5)),
        backends="fd00:1::{}",
        pool="fd00:9::{}",
        prefixes=(None, 64),
        clients="2400::/12",
        nobody="2001:db8:ffff::/48",
        everybody="::/0",
    ),
}
INTERFACES = ("eth0", "eth1", "bond0.100", "lan0")
_PORTS = (53, 80, 81, 443, 8080)
MANY = 33
"""Backends: known clients are looked up in groups, then (KNOWN_LIST_MAX)."""


def _mostly(usual: object, *others: object) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual, usual, usual, *others])


@st.composite
def any_backends_data(draw: st.DrawFn, scene: Scene, port: int, scheduler: str) -> list[Data]:
    least, most = draw(st.sampled_from([(0, 6)] * 8 + [(0, 12)] * 3 + [(MANY, 40)]))
    numbers = draw(st.lists(st.integers(1, 40), min_size=least, max_size=most, unique=True))
    failover = scheduler == "failover"
    return [
        backend_data(
            scene.backends.format(number),
            port=draw(st.sampled_from([port, port, port + 1000])),
            weight=draw(st.integers(1, 4)),
            state=draw(_mostly("enabled", "draining", "disabled")),
            **({"priority": draw(st.integers(0, 2))} if failover else {}),
        )
        for number in numbers
    ]


@st.composite
def any_source_nat_data(draw: st.DrawFn, scene: Scene) -> Data:
    first = draw(st.integers(1, 4))
    return draw(
        st.sampled_from(
            [
                {"mode": "masquerade"},
                {"mode": "none"},
                {"mode": "none", "hairpin": True},
                {"mode": "snat", "address": scene.pool.format(first)},
                {
                    "mode": "snat",
                    "address": scene.pool.format(first),
                    "address_end": scene.pool.format(first + 3),
                },
            ]
        )
    )


@st.composite
def any_access_data(draw: st.DrawFn, scene: Scene) -> Data:
    """Lists that let all clients in, or none of them, or half of all addresses."""
    lists = [{}, {"deny": [scene.nobody]}, {"allow": [scene.clients, scene.nobody]}, {"log_refused": True}]
    strict = [
        {"allow": [scene.nobody]},
        {"deny": [scene.clients]},
        {"deny": [scene.everybody], "log_refused": True},
        {"allow": [scene.everybody], "deny": [scene.nobody]},
        {"allow": [scene.clients], "new_per_second_per_source": 10_000, "connections_per_source": 1_000_000},
        {"new_per_second_per_source": 9_000, "new_burst": 90_000, "connections_per_backend": 1_000_000},
    ]
    chosen = draw(st.sampled_from(lists * 2 + strict))
    return {"drop_invalid": draw(st.booleans()) or "log_refused" in chosen, **chosen}


@st.composite
def any_health_data(draw: st.DrawFn, earlier: list[str]) -> Data:
    """What holds when checks leave nobody; who stands in came before, so that none goes round."""
    policies = [
        {"all_down": "keep"},
        {"all_down": "keep", "healthy_min": 60},
        {"all_down": "refuse"},
        *({"all_down": "service", "all_down_service": name} for name in earlier),
    ]
    if draw(st.booleans()):
        return {}
    return {"health": {"kind": draw(st.sampled_from(["tcp", "icmp"]))}, **draw(st.sampled_from(policies))}


@st.composite
def any_service_data(
    draw: st.DrawFn, name: str, scene: Scene, *, proxies: bool = True, earlier: Sequence[Data] = ()
) -> Data:
    """A service with every option that there is; it may collide with others.

    Often it has the ports of an earlier one, and addresses where the other takes any, or the reverse.
    """
    near = st.integers(8000, 8080)
    port = draw(st.one_of(st.sampled_from(_PORTS), near, near, st.integers(1, 60000)))
    last = port + draw(st.sampled_from([0, 0, 0, 1, 19, 70, 300]))
    protocol = draw(_mostly("udp", "tcp", "sctp"))
    scheduler = draw(st.sampled_from([str(each) for each in Scheduler]))
    addresses = draw(st.lists(st.sampled_from(scene.virtual), max_size=3, unique=True))
    interface, *interfaces = draw(st.lists(_mostly(*INTERFACES), min_size=1, max_size=3, unique=True))
    beside = draw(st.sampled_from([None, *earlier]))
    if beside is not None:
        interface, interfaces = beside["interface"], [one for one in interfaces if one != beside["interface"]]
        port, last = beside["port"], beside["port_end"] or beside["port"]
        protocol, addresses = beside["protocol"], [] if beside["address"] else addresses or [scene.virtual[0]]
    kept = {
        "prefix": draw(st.sampled_from(scene.prefixes)),
        "timeout": draw(st.sampled_from([300, 60, 7200])),
    }
    persistence = draw(_mostly({}, {"mode": "source", **kept}))
    return service_data(
        name,
        enabled=draw(_mostly(True, False)),
        interface=interface,
        additional_interfaces=interfaces,
        protocol=protocol,
        address=addresses[0] if addresses else None,
        additional_addresses=addresses[1:],
        port=port,
        port_end=last if last > port else None,
        additional_ports=draw(_mostly([], [str(last + 3)], [f"{last + 5}-{last + 9}", str(last + 2)])),
        from_node=draw(_mostly(False, True)),
        scheduler=scheduler,
        slow_start=draw(_mostly(0, 30)) if scheduler in {"random", "least-connections"} else 0,
        persistence=persistence,
        source_nat=draw(any_source_nat_data(scene)),
        access=draw(any_access_data(scene))
        | {"syn_proxy": proxies and protocol == "tcp" and draw(st.booleans())},
        backends=draw(any_backends_data(scene, port, scheduler)),
        **draw(any_health_data([one["name"] for one in earlier])),
    )


@st.composite
def any_documents(
    draw: st.DrawFn, family: Family | None = None, max_services: int = 6, proxies: bool = True
) -> Document:
    """Valid documents with every scheduler and option, of one family or of both.

    Services that would collide with those before them are left out.
    """
    taken: dict[Family, list[Data]] = {each: [] for each in Family}
    for index in range(draw(st.integers(1, max_services))):
        of = family or draw(st.sampled_from(list(Family)))
        data = draw(any_service_data(f"s{index}", SCENES[of], proxies=proxies, earlier=taken[of]))
        if not problems_of(*chain(*taken.values()), data):
            taken[of].append(data)
    return document(*chain(*taken.values()))


@st.composite
def any_carried(draw: st.DrawFn, family: Family | None = None, proxies: bool = True) -> Document:
    """What a node carries of such documents: what its checks found is laid over, and its own weights."""
    found = draw(any_documents(family, proxies=proxies))
    standings = {
        (service.name, backend.endpoint): draw(_mostly(False, True, None))
        if gone
        else draw(_mostly(True, False))
        for service in found.services
        for gone in [draw(st.booleans())]
        for backend in service.backends
    }
    laid = with_health(found, decide_overlay(found, HealthOverlay(), standings))
    weights = {
        service.name: {backend.endpoint: draw(st.integers(1, 999)) for backend in service.usable_backends}
        for service in laid.services
        if has_own_weights(service) and len(service.usable_backends) > 1
    }
    return with_own_weights(laid, weights)


def row_of_stand_ins(count: int) -> Document:
    """Each service stands in for the one before it; health checks can find all of them down but the last."""
    rest = {"health": {"kind": "tcp"}, "all_down": "service"}
    return document(
        *(
            service_data(
                f"s{i:04}",
                port=1000 + i,
                **(rest | {"all_down_service": f"s{i + 1:04}"} if i + 1 < count else {}),
            )
            for i in range(count)
        )
    )
