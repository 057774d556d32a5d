"""The probe and services that let not everybody in."""

import pytest

from balancer.kernel.base import Flavour
from tests.kernel.machine import BACKENDS, service
from tests.probes.balancer import Balancer, ask

pytestmark = pytest.mark.kernel
AT_80 = [{"address": address, "port": 80} for address in BACKENDS]
ACCESS = {
    "strangers": {"allow": ["192.0.2.0/24"]},
    "denied": {"deny": ["198.19.255.0/24"]},
    "let-in": {"allow": ["198.18.0.0/16", "198.19.0.0/16"], "deny": ["10.9.9.9"]},
    "limited": {"new_per_second_per_source": 1, "connections_per_source": 2},
}


def test_the_probe_says_whose_lists_do_not_let_it_in_and_asks_the_others(
    balancer: Balancer, flavour: Flavour
) -> None:
    balancer.listen()
    found = balancer.carry(
        *(
            service(name, port=80 + number, backends=AT_80, access=access)
            for number, (name, access) in enumerate(ACCESS.items())
        ),
        flavour=flavour,
    )
    results = ask(found)
    assert {name: result.passed for name, result in results.items()} == {
        "strangers": None,
        "denied": None,
        "let-in": True,
        "limited": True,
    }, results
    assert "do not let the probe in, which comes from 198.18.0.0/15" in results["strangers"].text
    again = ask(found)["limited"]
    assert again.passed or "may have met that limit" in again.text
