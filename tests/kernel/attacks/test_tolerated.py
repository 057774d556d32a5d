"""What the guide says is passed on all the same is just that, and this is what backends make of it."""

import select
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address

import pytest

from balancer.domain.types import Family
from tests.kernel.attacks.craft import ACK, SYN, TCP
from tests.kernel.attacks.kinds import Aim, Kind
from tests.kernel.attacks.scene import PLAIN, PROXIED, Scene
from tests.kernel.attacks.tolerated import answered, ignored, others

pytestmark = pytest.mark.kernel
_SECONDS = 0.05
"""In which a backend that answers has done so."""


def test_what_connection_tracking_has_no_quarrel_with_reaches_a_backend(scene: Scene) -> None:
    sent = {**answered(scene.family), **ignored(scene.family, scene.flavour), **others()}
    stopped = [name for name, kind in sent.items() if not scene.attack(own(kind, scene), port=PLAIN)]
    assert stopped == [], "then they belong to the kinds that never reach one"


def test_backends_answer_what_begins_a_connection_and_drop_strange_routes_and_options(scene: Scene) -> None:
    assert silent(answered(scene.family), scene, port=PLAIN) == []
    assert silent(ignored(scene.family, scene.flavour), scene, port=PLAIN) == list(
        ignored(scene.family, scene.flavour)
    )


def test_a_syn_proxy_stops_all_of_them_that_begin_a_connection(scene: Scene) -> None:
    sent = {**answered(scene.family), **ignored(scene.family, scene.flavour)}
    assert [name for name, kind in sent.items() if scene.attack(own(kind, scene), port=PROXIED)] == []


def own(kind: Kind, scene: Scene) -> Kind:
    """From the attacker's own address, so that an answer finds him."""
    source = ip_address(scene.places.far(scene.places.attacker))

    def make(aim: Aim) -> list[bytes]:
        return kind(replace(aim, tcp=replace(aim.tcp, source=source), udp=replace(aim.udp, source=source)))

    return make


def silent(sent: Mapping[str, Kind], scene: Scene, *, port: int) -> list[str]:
    """Those of the SYNs that nobody answered."""
    return [name for name, kind in sent.items() if not is_answered(kind, scene, port=port)]


def is_answered(kind: Kind, scene: Scene, *, port: int) -> bool:
    while select.select([scene.attackers_wire], [], [], 0)[0]:
        scene.attackers_wire.recv(65536)
    scene.attack(own(kind, scene), port=port)
    while select.select([scene.attackers_wire], [], [], _SECONDS)[0]:
        packet = scene.attackers_wire.recv(65536)
        if scene.family is Family.IPV4:
            kind_of, body = packet[9], packet[(packet[0] & 15) * 4 :]
        else:
            kind_of, body = packet[6], packet[40:]
        if kind_of == TCP and body[13] & (SYN | ACK) == SYN | ACK:
            return True
    return False
