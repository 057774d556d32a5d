"""Lists of networks in a real kernel: there before the rules, whole, and gone afterwards."""

import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from balancer.domain.types import Document, Family
from balancer.kernel.base import DriverName, Flavour, Rejected
from balancer.kernel.network_sets import compare_lists, network_sets_for
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.parse import parse_ruleset
from balancer.ruleset.render import render_ruleset
from tests.kernel.ipv6 import service6
from tests.kernel.machine import Namespace, Wires, document, ruleset, run, service
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel
MANY = [f"10.{i // 250}.{i % 250}.0/24" for i in range(10_000)]


def lists() -> list[str]:
    return [name for name in run("ipset", "list", "-n").split() if ".net-" in name]


def denying(*networks: str, **fields: Any) -> dict[str, Any]:
    return service(access={"deny": list(networks)}, **fields)


@pytest.fixture
def kernel(namespace: Namespace, flavour: Flavour) -> NodeKernel:
    return NodeKernel(flavour=flavour)


def carry(kernel: NodeKernel, *services: dict[str, Any]) -> tuple[str, ...]:
    receipt = kernel.sync(ruleset=ruleset(*services), document=document(*services))
    assert receipt.warnings == ()
    return receipt.steps


def test_another_list_takes_the_place_of_the_one_before_and_none_is_left_behind(kernel: NodeKernel) -> None:
    assert "Made 1 list of networks." in carry(kernel, denying("203.0.113.0/24"))
    (first,) = lists()
    carry(kernel, denying("203.0.113.0/24", "0.0.0.0/0"))
    (second,) = lists()
    assert second != first
    assert set(run("ipset", "save", second).splitlines()[1:]) == {
        f"add {second} 0.0.0.0/1",
        f"add {second} 128.0.0.0/1",
    }
    # As a guard brings it back: from text.
    text = render_ruleset(ruleset(denying("203.0.113.0/24")))
    earlier = parse_ruleset(text, family=Family.IPV4)
    kernel.sync(ruleset=earlier, document=document(denying("203.0.113.0/24")))
    assert lists() == [first]
    assert kernel.compare(ruleset=earlier).in_sync
    carry(kernel, service())
    assert lists() == []


def test_lists_of_the_other_family_stay(kernel: NodeKernel) -> None:
    six = service6("six", access={"deny": ["2001:db8:9::/48"]})
    both = document(denying("203.0.113.0/24"), six)
    for family in Family:
        kernel.sync(ruleset=compile_document(both, family=family), document=both)
    assert sorted(name[:8] for name in lists()) == ["LB-4.net", "LB-6.net"]
    kernel.remove()
    assert lists() == []


def test_what_was_made_for_rules_that_did_not_come_in_goes_again(kernel: NodeKernel) -> None:
    carry(kernel, denying("203.0.113.0/24"))
    before = lists()

    def refuse(there: list[str]) -> None:
        there.extend(lists())
        raise Rejected("no")

    there: list[str] = []
    with pytest.raises(Rejected), network_sets_for(ruleset(denying("198.51.100.0/24"))):
        refuse(there)
    assert len(there) == 2
    assert lists() == before


def test_a_set_of_our_name_that_is_another_one_is_refused(kernel: NodeKernel) -> None:
    wanted = ruleset(denying("203.0.113.0/24"))
    (name,) = wanted.lists
    run("ipset", "create", name, "hash:ip")
    with pytest.raises(Rejected, match=f"There is a set {name} already"):
        kernel.sync(ruleset=wanted, document=document(denying("203.0.113.0/24")))


def test_an_exception_that_somebody_put_into_a_list_is_a_difference(kernel: NodeKernel) -> None:
    carry(kernel, denying("203.0.113.0/24"))
    (name,) = lists()
    run("ipset", "add", name, "203.0.113.9", "nomatch")
    assert compare_lists(ruleset(denying("203.0.113.0/24"))) == (f"- list {name}: 203.0.113.9/32 nomatch",)
    carry(kernel, denying("203.0.113.0/24"))
    assert kernel.compare(ruleset=ruleset(denying("203.0.113.0/24"))).in_sync
    assert lists() == [name]


def test_an_entry_that_somebody_took_out_is_seen_though_no_rule_has_changed_and_put_back(
    kernel: NodeKernel,
) -> None:
    """Neither the text of the rules nor the generation of nf_tables moves with it."""
    one = denying("203.0.113.0/24", "198.51.100.7")
    wanted = ruleset(one)
    carry(kernel, one)
    (name,) = lists()
    for _ in range(2):
        assert kernel.compare(ruleset=wanted).in_sync
    run("ipset", "del", name, "198.51.100.7")
    for _ in range(2):
        assert kernel.compare(ruleset=wanted).lines == (f"+ list {name}: 198.51.100.7/32",)
    assert "Put 1 list of networks right that somebody had changed." in carry(kernel, one)
    assert kernel.compare(ruleset=wanted).in_sync


def test_a_list_of_ten_thousand_networks_is_brought_in_and_compared_quickly(kernel: NodeKernel) -> None:
    one = denying(*MANY)
    wanted = ruleset(one)
    watch = Stopwatch()
    kernel.sync(ruleset=wanted, document=document(one))
    assert watch.own < 10
    watch = Stopwatch()
    assert kernel.compare(ruleset=wanted).in_sync
    assert watch.own < 2
    (name,) = lists()
    run("ipset", "flush", name)
    lines = kernel.compare(ruleset=wanted).lines
    assert len(lines) == 21, "not thousands of lines"
    kernel.sync(ruleset=wanted, document=document(one))
    assert kernel.compare(ruleset=wanted).in_sync


def test_without_ipset_a_service_with_a_list_is_refused_and_others_are_not(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balancer.kernel.network_sets.find_tool", lambda name: None)
    with (
        pytest.raises(Rejected, match="need the program ipset"),
        network_sets_for(ruleset(denying("10.0.0.0/8"))),
    ):
        raise AssertionError("inside")
    with network_sets_for(Ruleset(family=Family.IPV4, tables=())) as sets:
        pass
    assert sets.warnings == ()


def test_without_ipset_nothing_at_all_is_written(
    namespace: Namespace, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("balancer.kernel.network_sets.find_tool", lambda name: None)
    one = denying("203.0.113.0/24")
    with pytest.raises(Rejected, match="Install the package ipset"):
        NodeKernel(flavour=flavour).sync(ruleset=ruleset(one), document=document(one))
    assert "LB-" not in run(f"iptables-{flavour}-save")
    assert lists() == []


def test_while_lists_change_under_traffic_nobody_slips_in_and_nobody_is_kept_out(
    namespace: Namespace, flavour: Flavour
) -> None:
    """198.51.100.3 is on every one of these deny lists, 198.51.100.2 on none."""
    kernel, wires, stop = NodeKernel(flavour=flavour), Wires(namespace), threading.Event()
    sent: list[int] = []
    try:
        with wires.client.entered():
            run("ip", "address", "add", "198.51.100.3/24", "dev", "eth0")
        backends = wires.listen_udp(port=53)
        pairs = [
            [wires.udp_client(port=53, source=f"198.51.100.{last}") for last in (2, 3)] for _ in range(500)
        ]
        carry(kernel, datagrams(0))
        sender = threading.Thread(target=_send_one_after_the_other, args=(pairs, sent, stop))
        sender.start()
        for number in range(1, 4):
            wanted = min(len(sent) + 5, len(pairs))
            while sender.is_alive() and len(sent) < wanted:
                time.sleep(0.001)
            carry(kernel, datagrams(number))
        stop.set()
        sender.join()
        came = [text for backend in backends.values() for text in _all_of(backend)]
    finally:
        stop.set()
        wires.close()
    assert came == ["198.51.100.2"] * len(sent)


def datagrams(number: int) -> dict[str, Any]:
    return denying("198.51.100.3", f"203.0.113.{number}", protocol="udp", port=53)


def _send_one_after_the_other(
    pairs: list[list[socket.socket]], sent: list[int], stop: threading.Event
) -> None:
    for number, pair in enumerate(pairs):
        for client in pair:
            client.send(client.getsockname()[0].encode())
        sent.append(number)
        if stop.wait(0.005):
            return


def _all_of(backend: socket.socket) -> Iterator[str]:
    while select.select([backend], [], [], 0.1)[0]:
        yield backend.recv(100).decode()


def test_the_driver_python_iptables_carries_lists_and_limits(namespace: Namespace) -> None:
    kernel = NodeKernel(flavour=Flavour.LEGACY, driver=DriverName.PYTHON_IPTABLES)
    access = {
        "allow": ["203.0.113.0/24"],
        "deny": ["203.0.113.7"],
        "new_per_second_per_source": 9,
        "connections_per_source": 5,
        "connections_per_backend": 6,
        "log_refused": True,
    }
    one = service(access=access)
    assert kernel.sync(ruleset=ruleset(one), document=document(one)).changed
    assert kernel.compare(ruleset=ruleset(one)).in_sync
    assert kernel.sync(ruleset=ruleset(one), document=document(one)).changed is False
    kernel.sync(ruleset=ruleset(), document=Document())
    assert lists() == []
    assert "LB-" not in run("iptables-legacy-save", "-t", "mangle")
