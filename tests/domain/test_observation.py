"""What was seen of a node: which listener and which service meet, and the way to a row and back."""

import json
from ipaddress import ip_address, ip_network

import pytest

from balancer.domain.observation import ConnectionCount, InputPath, InputRule, Listener, Observation
from balancer.domain.types import Protocol
from tests.documents import document, service_data

OBSERVED = Observation(
    connections=(
        ConnectionCount(
            protocol=Protocol.TCP,
            address=ip_address("198.51.100.1"),
            port=80,
            backend="10.0.0.3:80",
            entries=5,
            established=3,
        ),
        ConnectionCount(
            protocol=Protocol.UDP,
            address=ip_address("198.51.100.1"),
            port=53,
            backend="",
            entries=2,
            established=2,
        ),
    ),
    listeners=(Listener(protocol=Protocol.TCP, address="*", port=22),),
    inputs=(
        InputPath(
            flavour="nft",
            policy="DROP",
            rules=(
                InputRule(
                    text="-A INPUT -s 203.0.113.0/24 -p tcp -m tcp --dport 80 -j DROP",
                    chain="INPUT",
                    verdict="DROP",
                    protocol=Protocol.TCP,
                    ports=((80, 80),),
                    source=ip_network("203.0.113.0/24"),
                ),
                InputRule(text="-A INPUT -j ACCEPT", chain="INPUT", verdict="ACCEPT"),
            ),
            left_out=1,
        ),
    ),
    duration_ms=12,
)


def test_an_observation_survives_the_way_through_json() -> None:
    assert Observation.from_data(json.loads(json.dumps(OBSERVED.to_data()))) == OBSERVED
    assert Observation.from_data(Observation().to_data()) == Observation()


def test_only_living_connections_with_a_backend_are_balanced() -> None:
    assert OBSERVED.balanced == 3


@pytest.mark.parametrize(
    ("listener", "fields", "expected"),
    [
        ({"address": "0.0.0.0"}, {}, True),
        ({"address": "*"}, {}, True),
        ({"address": "::"}, {}, False),
        ({"address": "198.51.100.1"}, {}, True),
        ({"address": "198.51.100.1"}, {"address": "198.51.100.1"}, True),
        ({"address": "198.51.100.1"}, {"address": "198.51.100.2"}, False),
        ({"address": "0.0.0.0"}, {"address": "198.51.100.2"}, True),
        ({"address": "0.0.0.0", "interface": "eth0"}, {}, True),
        ({"address": "0.0.0.0", "interface": "eth1"}, {}, False),
        ({"address": "0.0.0.0", "port": 81}, {}, False),
        ({"address": "0.0.0.0", "protocol": Protocol.UDP}, {}, False),
        ({"address": "0.0.0.0"}, {"protocol": "udp"}, False),
    ],
)
def test_a_listener_meets_a_service_where_one_packet_could_be_for_both(
    listener: dict, fields: dict, expected: bool
) -> None:
    service = document(service_data(**fields)).services[0]
    found = Listener(**({"protocol": Protocol.TCP, "port": 80} | listener))
    assert found.shares_endpoint_with(service) is expected
