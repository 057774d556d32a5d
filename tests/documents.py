"""Documents for tests: the article's, and arbitrary ones."""

from typing import Any

from hypothesis import strategies as st

from balancer.domain.codec import parse_document
from balancer.domain.problem import Problem, errors
from balancer.domain.types import Document

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
