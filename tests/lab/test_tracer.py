"""The tracer and the kernel agree on where connections go, for arbitrary documents."""

import os
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network
from math import lcm

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from balancer.domain.types import Document, Protocol, Scheduler
from balancer.lab.plan import Balancer
from balancer.lab.topology import Lab
from balancer.lab.traffic import Report, list_sources, open_connections, send_datagrams
from balancer.ruleset.compile import compile_document
from balancer.ruleset.trace import Packet, Trace, trace_packet
from tests.documents import documents
from tests.lab.conftest import new_prefix
from tests.lab.rules import load_document

pytestmark = pytest.mark.kernel

INTERFACES = ("eth0", "eth1", "bond0.100")
"""As in tests.documents."""
VIRTUAL = tuple(IPv4Address(text) for text in ("203.0.113.1", "203.0.113.2", "198.51.100.77"))
OWN_PORTS = (53, 80, 81, 443, 8080)
RANDOM_FLOWS = 200
EXAMPLES = 40 if "LBADMIN_CAMPAIGN" in os.environ else 20
AGREES = 1e-8
"""Some two thousand comparisons a run: a chance of 1e-8 each is no false alarm in fifty thousand runs."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A balancer with every interface and address of the arbitrary documents; its own ports answer."""
    balancer = Balancer(
        name="lb1",
        lan_address=IPv4Address("10.0.0.1"),
        interfaces=INTERFACES,
        lan_interface="lan0",
        addresses=tuple(("eth0", address) for address in VIRTUAL),
    )
    lab = Lab(
        prefix=new_prefix(),
        balancers=(balancer,),
        backends=(IPv4Network("10.0.0.0/24"),),
        clients=IPv4Network("192.0.2.0/24"),
        tcp_ports=(80, 8080),
        udp_ports=(80, 8080),
        records=tmp_path_factory.mktemp("records"),
    )
    with lab:
        lab.listen(machine="lb1", tcp_ports=OWN_PORTS, udp_ports=OWN_PORTS)
        # One message a second to each client would be too few to tell refused from lost.
        unlimited = ["sh", "-c", "echo 0 > /proc/sys/net/ipv4/icmp_ratelimit"]
        lab.run(machine="lb1", command=unlimited)
        yield lab


@st.composite
def cases(draw: st.DrawFn) -> tuple[Document, list[Packet]]:
    """A document, a packet to each of its services, and some that may belong to none."""
    one = draw(documents(max_services=4))
    strays = draw(
        st.lists(
            st.tuples(
                st.sampled_from(INTERFACES),
                st.sampled_from([Protocol.TCP, Protocol.UDP]),
                st.sampled_from([None, *VIRTUAL]),
                st.sampled_from(OWN_PORTS),
            ),
            max_size=2,
        )
    )
    wanted = [(s.interface, s.protocol, s.address, s.port) for s in one.services]
    packets = dict.fromkeys(make_packet(*each) for each in [*wanted, *strays])
    return one, list(packets)


def make_packet(interface: str, protocol: Protocol, address: IPv4Address | None, port: int) -> Packet:
    own = IPv4Address(f"198.18.{INTERFACES.index(interface)}.1")
    return Packet(
        interface=interface,
        protocol=protocol,
        source=IPv4Address("192.0.2.1"),
        destination=address or own,
        port=port,
    )


@given(case=cases())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
def test_the_tracer_and_the_kernel_agree(
    edge: Lab, flavour: str, case: tuple[Document, list[Packet]]
) -> None:
    one, packets = case
    load_document(lab=edge, flavour=flavour, document=one)
    ruleset = compile_document(one)
    for packet in packets:
        traced = trace_packet(ruleset, packet)
        scheduler = next((s.scheduler for s in one.services if s.name == traced.service), None)
        exact = scheduler is not Scheduler.RANDOM
        exact = exact or traced.refused == 1
        count = cycle_length(traced) if exact else RANDOM_FLOWS
        report = send_packets(lab=edge, packet=packet, count=count)
        assert_agreement(report, traced, packet=packet, exact=exact)


def cycle_length(traced: Trace) -> int:
    return max(3, 2 * lcm(*(share.denominator for share in traced.shares.values())))


def send_packets(*, lab: Lab, packet: Packet, count: int) -> Report:
    via = f"198.18.{INTERFACES.index(packet.interface)}.1"
    if packet.destination in VIRTUAL:
        route = ["ip", "route", "replace", f"{packet.destination}/32", "via", via]
        lab.run(machine="client", command=route)
    send = open_connections if packet.protocol is Protocol.TCP else send_datagrams
    return send(lab=lab, address=str(packet.destination), port=packet.port, count=count, concurrency=8)


def assert_agreement(report: Report, traced: Trace, *, packet: Packet, exact: bool) -> None:
    own = f"{packet.destination}:{packet.port}"
    if traced.unmatched == 1 and packet.port in OWN_PORTS:
        assert report.answered == {own: report.sent}
        return
    if traced.refused == 1 or traced.unmatched == 1:
        assert report.refused == report.sent
        return
    assert report.lost_total == 0
    assert set(report.answered) <= set(traced.shares)
    masqueraded = set(report.peers) == {"10.0.0.1"}
    assert masqueraded is traced.masqueraded
    expected = {end: share * report.sent for end, share in traced.shares.items()}
    if exact:
        assert Counter(report.answered) == Counter({end: int(n) for end, n in expected.items()})
        assert all(n == int(n) for n in expected.values())
    elif len(expected) > 1:
        seen = [report.answered.get(end, 0) for end in expected]
        assert chisquare(seen, [float(n) for n in expected.values()]).pvalue > AGREES


def test_the_comparison_notices_a_wrong_share(edge: Lab) -> None:
    """The agreement above is worth something only if a disagreement fails."""
    report = Report(
        sent=4,
        answered={"10.0.0.3:80": 3, "10.0.0.4:80": 1},
        peers={"10.0.0.1": 4},
        lost={},
        slowest=0,
        seconds=0,
    )
    half = Trace(
        service="web",
        shares={"10.0.0.3:80": Fraction(1, 2), "10.0.0.4:80": Fraction(1, 2)},
        refused=Fraction(0),
        dropped=Fraction(0),
        unmatched=Fraction(0),
        masqueraded=True,
        steps=(),
    )
    packet = make_packet("eth0", Protocol.TCP, None, 80)
    with pytest.raises(AssertionError):
        assert_agreement(report, half, packet=packet, exact=True)
    assert list_sources(lab=edge, count=1) == ["192.0.2.1"]
