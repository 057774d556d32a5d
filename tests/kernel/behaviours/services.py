"""The document that the lab's node carries: every behaviour has services of its own in it."""

from ipaddress import ip_network
from itertools import product
from typing import Any

from balancer.domain.types import Family, Protocol, Scheduler
from tests.kernel.behaviours.lab import Lab
from tests.kernel.behaviours.machines import LAN

Data = dict[str, Any]

WEIGHTS = (1, 2, 3)
SCHEDULED = {scheduler: 1000 + number for number, scheduler in enumerate(Scheduler)}
"""The port of each scheduler; every protocol has a service there."""
STICKY, STICKY_NETWORK, STICKY_MANY, STICKY_DRAINING = 1100, 1101, 1102, 1103
MANY = 40
"""Backends of a service with persistence, more than are looked through one by one."""
SAME, SHIFTED, LISTED = 2000, 2200, 2400
SEVERAL_ADDRESSES, ANY_ADDRESS, SEVERAL_INTERFACES, ONE_INTERFACE = 3000, 3001, 3002, 3003
FROM_NODE, HAIRPIN, HAIRPIN_NONE = 4000, 4100, 4101
SNAT, POOL, NONE = 4200, 4201, 4202
REFUSED = 4300
DRAINING, TALK = 4400, 4401
HUNDRED = 4500
MIXED = 4600
PROXIED, PROXIED_SINKS, PROXIED_SPARE, PROXIED_NONE = range(5900, 5904)
DENY, ALLOW, RATE, BY_SOURCE, BY_BACKEND, LOGGED, STRICT, LENIENT = range(4710, 4718)
"""Services that let not everybody in."""
FILTERED, FILTERED_NONE = 4720, 4721
"""With every filter that there is, masqueraded and not."""
DENIED, ALLOWED = 900, 902
"""Networks of clients (`Machines.source`)."""
PER_SOURCE, PER_BACKEND = 3, 2
CHECKED, CHECKED_REFUSE, CHECKED_AWAY, CHECKED_LIVE, CHECKED_STICKY, SORRY = range(4800, 4806)
DOCKER = 4900


def services(lab: Lab, **changes: Data) -> tuple[Data, ...]:
    """All services, some with other fields. Those of `changes` are named with underscores."""
    every = (
        *_scheduled(lab),
        *_persistent(lab),
        *_found(lab),
        *_checked(lab),
        *_others(lab),
        *_guarded(lab),
    )
    found = {data["name"]: data for data in every}
    for name, fields in changes.items():
        found[name.replace("_", "-")] |= fields
    return tuple(found.values())


def make(name: str, port: int, backends: list[Data], **fields: Any) -> Data:
    return {"name": name, "interface": "eth0", "protocol": "udp", "port": port, "backends": backends} | fields


def sinks(lab: Lab, *numbers: int, **fields: Any) -> list[Data]:
    return [{"address": lab.sink(number), **fields} for number in numbers]


def failing_over(lab: Lab, *, first: str = "enabled") -> list[Data]:
    """Two backends of one priority with weights 2 and 1, and two that wait for them to fail."""
    return [
        {"address": lab.sink(11), "weight": 2, "state": first},
        {"address": lab.sink(12), "weight": 1, "state": first},
        {"address": lab.sink(13), "priority": 1},
        {"address": lab.sink(14), "priority": 2},
    ]


def _scheduled(lab: Lab) -> list[Data]:
    weighted = [{"address": lab.sink(number), "weight": weight} for number, weight in enumerate(WEIGHTS, 1)]
    return [
        make(
            f"{scheduler}-{protocol}",
            port,
            failing_over(lab) if scheduler is Scheduler.FAILOVER else weighted,
            protocol=protocol.value,
            scheduler=scheduler.value,
        )
        for (scheduler, port), protocol in product(SCHEDULED.items(), Protocol)
    ]


def _persistent(lab: Lab) -> list[Data]:
    prefix = 24 if lab.family is Family.IPV4 else 64
    source = {"mode": "source"}
    six = sinks(lab, *range(21, 27))
    return [
        make("sticky", STICKY, six, scheduler="random", persistence=source),
        make("sticky-draining", STICKY_DRAINING, six, scheduler="random", persistence=source),
        make(
            "sticky-network", STICKY_NETWORK, six, scheduler="random", persistence=source | {"prefix": prefix}
        ),
        make(
            "sticky-many",
            STICKY_MANY,
            sinks(lab, *range(30, 30 + MANY)),
            scheduler="random",
            persistence=source,
        ),
    ]


def _found(lab: Lab) -> list[Data]:
    """By port, address and interface."""
    two = sinks(lab, 1, 2)
    return [
        make("same", SAME, two, port_end=SAME + 99),
        make("shifted", SHIFTED, sinks(lab, 1, 2, port=5000), port_end=SHIFTED + 99),
        make("listed", LISTED, sinks(lab, 1, 2, port=6400), additional_ports=["2410", "2420-2429"]),
        make(
            "addresses",
            SEVERAL_ADDRESSES,
            two,
            address=lab.virtual(1),
            additional_addresses=[lab.virtual(2)],
        ),
        make("any", ANY_ADDRESS, two),
        make("interfaces", SEVERAL_INTERFACES, two, additional_interfaces=["bond0.100"]),
        make("interface", ONE_INTERFACE, two),
        make("mixed-any", MIXED, sinks(lab, 1), port_end=MIXED + 99),
        make("mixed-1", MIXED + 20, sinks(lab, 2), port_end=MIXED + 40, address=lab.virtual(1)),
        make("mixed-2", MIXED + 30, sinks(lab, 3), port_end=MIXED + 50, address=lab.virtual(2)),
        make("mixed-3", MIXED + 45, sinks(lab, 4), address=lab.virtual(1)),
        make(
            "mixed-4",
            MIXED,
            sinks(lab, 5),
            port_end=MIXED + 10,
            additional_ports=[str(MIXED + 90)],
            address=lab.virtual(3),
            additional_addresses=[lab.virtual(4)],
        ),
    ]


def network_of(lab: Lab, number: int) -> str:
    """That of the clients `lab.source(…, network=number)`."""
    bits = 24 if lab.family is Family.IPV4 else 64
    return str(ip_network((lab.source(0, network=number), bits), strict=False))


def _guarded(lab: Lab) -> list[Data]:
    two = sinks(lab, 1, 2)
    one = [{"address": lab.live(1)}]
    every = {
        "allow": ["0.0.0.0/0" if lab.family is Family.IPV4 else "::/0"],
        "deny": [network_of(lab, DENIED)],
        "new_per_second_per_source": 50,
        "connections_per_source": 50,
        "connections_per_backend": 50,
        "log_refused": True,
    }
    denied = [network_of(lab, DENIED), str(lab.source(3, network=DENIED + 1))]
    allowed = {"allow": [network_of(lab, ALLOWED)], "deny": [str(lab.source(5, network=ALLOWED))]}
    return [
        make("deny", DENY, two, access={"deny": denied}, from_node=True),
        make("deny-tcp", DENY, two, protocol="tcp", access={"deny": denied}),
        make("allow", ALLOW, two, access=allowed),
        make("rate", RATE, two, access={"new_per_second_per_source": 1, "new_burst": 5}),
        make("by-source", BY_SOURCE, two, access={"connections_per_source": PER_SOURCE}),
        make("by-backend", BY_BACKEND, two, access={"connections_per_backend": PER_BACKEND}),
        make("logged", LOGGED, two, access={"deny": denied, "log_refused": True}),
        make("filtered", FILTERED, one, protocol="tcp", access=every),
        make("filtered-none", FILTERED_NONE, one, protocol="tcp", access=every, source_nat={"mode": "none"}),
        make("strict", STRICT, two, protocol="tcp"),
        make("strict-udp", STRICT, two),
        make("lenient", LENIENT, two, protocol="tcp", access={"drop_invalid": False}),
    ]


def _checked(lab: Lab) -> list[Data]:
    """With health checks: which backends are down is laid over them."""
    three, check = sinks(lab, 1, 2, 3), {"health": {"kind": "tcp"}}
    away = {"all_down": "service", "all_down_service": "sorry"}
    return [
        make("checked", CHECKED, three, **check),
        make("checked-refuse", CHECKED_REFUSE, three, all_down="refuse", **check),
        make("checked-away", CHECKED_AWAY, three, **away, **check),
        make(
            "checked-live",
            CHECKED_LIVE,
            [{"address": lab.live(1)}, {"address": lab.live(2)}],
            protocol="tcp",
            **check,
        ),
        make("checked-sticky", CHECKED_STICKY, three, persistence={"mode": "source"}, **check),
        make("sorry", SORRY, sinks(lab, 9, port=99), source_nat={"mode": "snat", "address": lab.pool(1)}),
    ]


def _others(lab: Lab) -> list[Data]:
    two, live = sinks(lab, 1, 2), [{"address": lab.live(1)}, {"address": lab.live(2)}]
    lan = {"additional_interfaces": [LAN]}
    proxy = {"syn_proxy": True}
    out = [one | {"state": "disabled"} for one in live]
    spare = [out[0], live[1] | {"priority": 1}]
    none: Data = {"mode": "none"}
    return [
        make("from-node", FROM_NODE, two, from_node=True),
        make("from-node-tcp", FROM_NODE, live, protocol="tcp", from_node=True),
        make("hairpin", HAIRPIN, two, **lan),
        make("hairpin-none", HAIRPIN_NONE, two, source_nat=none | {"hairpin": True}, **lan),
        make("snat", SNAT, two, source_nat={"mode": "snat", "address": lab.pool(1)}),
        make(
            "pool",
            POOL,
            two,
            source_nat={"mode": "snat", "address": lab.pool(2), "address_end": lab.pool(3)},
        ),
        make("none", NONE, two, source_nat=none),
        *(
            make(
                f"refused-{protocol}",
                REFUSED,
                sinks(lab, 1, state="disabled"),
                protocol=protocol.value,
                from_node=True,
            )
            for protocol in Protocol
        ),
        make("draining", DRAINING, live, protocol="tcp"),
        make("talk", TALK, live, protocol="tcp"),
        make("proxied", PROXIED, live, protocol="tcp", access=proxy),
        make("proxied-sinks", PROXIED_SINKS, two, protocol="tcp", access=proxy),
        make("proxied-spare", PROXIED_SPARE, spare, protocol="tcp", scheduler="failover", access=proxy),
        make("proxied-none", PROXIED_NONE, out, protocol="tcp", access=proxy),
        make("hundred", HUNDRED, sinks(lab, *range(101, 201))),
    ]
