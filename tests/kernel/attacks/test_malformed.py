"""Malformed packets at a service with `drop_invalid`, its default, and at one with a SYN proxy."""

import pytest

from tests.kernel.attacks.craft import SYN, TCP, ip, tcp
from tests.kernel.attacks.kinds import kinds
from tests.kernel.attacks.scene import PLAIN, PROXIED, Scene

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("port", [PLAIN, PROXIED], ids=["plain", "proxied"])
def test_no_malformed_packet_reaches_a_backend_and_no_honest_client_notices(scene: Scene, port: int) -> None:
    sent = kinds(scene.family)
    assert len(sent) >= 30
    came = {name: seen for name, kind in sent.items() if (seen := scene.attack(kind, port=port))}
    assert not came, f"{len(came)} of {len(sent)} kinds came through: {sorted(came)}"
    assert scene.ask(port), "the connection that was there all the time"
    with scene.connect(port) as fresh:
        fresh.sendall(b"new")
        assert fresh.recv(3) == b"new"


def test_what_a_backend_gets_is_seen_so_that_this_cannot_pass_by_accident(scene: Scene) -> None:
    assert len(scene.attack(lambda aim: [ip(aim.tcp, TCP, tcp(aim.tcp, SYN))], port=PLAIN)) == 1


def test_a_syn_alone_does_not_pass_a_syn_proxy(scene: Scene) -> None:
    assert scene.attack(lambda aim: [ip(aim.tcp, TCP, tcp(aim.tcp, SYN))], port=PROXIED) == []
