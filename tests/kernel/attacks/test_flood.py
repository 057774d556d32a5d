"""A flood of SYNs at a service with a SYN proxy, and at one without. `script/bench attacks` measures more."""

import os

import pytest

from tests.kernel.attacks.conftest import CELLS
from tests.kernel.attacks.flood import flood
from tests.kernel.attacks.scene import PLAIN, PROXIED, Scene

pytestmark = pytest.mark.kernel
CAMPAIGN = bool(os.environ.get("LBADMIN_CAMPAIGN"))
SECONDS, RATE, HONEST = (20.0, 30_000, 600) if CAMPAIGN else (1.0, 15_000, 60)


def test_honest_connections_work_through_a_flood_that_a_syn_proxy_keeps_from_the_backends(
    scene: Scene,
) -> None:
    with scene.without_cookies():
        found = flood(scene, port=PROXIED, rate=RATE, seconds=SECONDS, honest=HONEST)
    assert found.sent == RATE * SECONDS
    assert found.came == 0
    assert found.answered >= 0.9 * found.tried


@pytest.mark.parametrize("scene", CELLS[-1:], ids=["nft-ipv6"], indirect=True)
def test_without_a_syn_proxy_the_same_flood_reaches_the_backends_and_honest_clients_wait(
    scene: Scene,
) -> None:
    """So that the other test shows what the proxy does, and not what the lab can bear."""
    with scene.without_cookies():
        found = flood(scene, port=PLAIN, rate=RATE, seconds=0.5, honest=10, timeout=1.0)
    assert found.came > 0.9 * found.sent, "a busy machine drops some on the way"
    assert found.answered < 0.9 * found.tried


@pytest.mark.parametrize("scene", [CELLS[0], CELLS[-1]], ids=["legacy-ipv4", "nft-ipv6"], indirect=True)
def test_who_is_on_the_deny_list_does_not_even_shake_hands_with_a_syn_proxy(scene: Scene) -> None:
    denied = scene.places.far(scene.places.attacker)
    scene.connect(PROXIED, attacker=True).close()
    scene.carry(deny=[denied])
    with pytest.raises(TimeoutError):
        scene.connect(PROXIED, attacker=True, timeout=0.5)
    assert scene.ask(PROXIED), "everybody else is served"
    scene.carry()
