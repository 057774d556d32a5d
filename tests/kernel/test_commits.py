"""Round-robin turns and counters live in the kernel's rules, and a commit may reset them."""

import re
from collections import Counter

import pytest

from balancer.kernel import turning
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.kernel.plan import TablePlan
from balancer.ruleset.parse import parse_save
from balancer.ruleset.render import render_ruleset
from tests.kernel.machine import BACKENDS, Wires, ask_udp, document, ruleset, save, service

DNS = service("dns", protocol="udp", port=53)


def sync(kernel: NodeKernel, *services: dict) -> bool:
    return kernel.sync(ruleset=ruleset(*services), document=document(*services)).changed


def test_nothing_to_do_leaves_the_round_robin_turns_alone(kernel: NodeKernel, wires: Wires) -> None:
    backends = wires.listen_udp(port=53)
    sync(kernel, DNS)
    asked = []
    for _ in range(6):
        asked.append(ask_udp(wires.udp_client(port=53), backends))
        assert not sync(kernel, DNS)
    assert asked == [*BACKENDS, *BACKENDS[:2]]


def test_a_change_of_the_filter_table_leaves_the_round_robin_turns_alone(
    kernel: NodeKernel, wires: Wires
) -> None:
    backends = wires.listen_udp(port=53)
    sync(kernel, DNS)
    asked = []
    for number in range(4):
        asked.append(ask_udp(wires.udp_client(port=53), backends))
        assert sync(kernel, DNS | {"access": {"drop_invalid": bool(number % 2)}})
    assert asked == list(BACKENDS)


def test_on_nft_a_change_elsewhere_keeps_turns_and_counters_of_untouched_chains(wires: Wires) -> None:
    kernel = NodeKernel(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE)
    backends = wires.listen_udp(port=53)
    sync(kernel, DNS)
    asked = []
    for number in range(6):
        asked.append(ask_udp(wires.udp_client(port=53), backends))
        before = _counters("LB-S-dns")
        assert sync(kernel, DNS, service("web", port=80 + number), service(f"api{number}", port=9000))
        assert _counters("LB-S-dns") == before
    assert asked == [*BACKENDS, *BACKENDS[:2]]
    assert _counters("LB-S-dns")[0] == 6, "the mark rule counts each new connection"


def test_what_each_backend_got_is_counted_on_through_every_change_but_its_own(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName], wires: Wires
) -> None:
    backends = wires.listen_udp(port=53)
    others = [{"address": address, "weight": 2} for address in BACKENDS[1:]]
    got: Counter[str] = Counter()
    for change in (
        {},
        {"scheduler": "random"},
        {"backends": [{"address": BACKENDS[0], "state": "draining"}, *others]},
        {"backends": [{"address": BACKENDS[0], "state": "disabled"}, *others]},
        {"backends": [{"address": BACKENDS[0]}, *others], "scheduler": "source-hash"},
        {"backends": [{"address": address, "priority": i} for i, address in enumerate(BACKENDS)]}
        | {"scheduler": "failover"},
        {},
    ):
        sync(kernel, DNS | change, service("web", port=80 + sum(got.values())))
        got.update(ask_udp(wires.udp_client(port=53), backends) for _ in range(5))
        found = {address: _counters(f"LB-S-dns:{address}-53", kind[0])[-1] for address in BACKENDS}
        assert found == {address: got[address] for address in BACKENDS}, change
    assert got.total() == 35


def test_on_legacy_a_commit_to_nat_goes_on_at_any_backend_and_the_receipt_says_so(
    wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = NodeKernel(flavour=Flavour.LEGACY)
    backends = wires.listen_udp(port=53)
    sync(kernel, DNS)
    assert ask_udp(wires.udp_client(port=53), backends) == BACKENDS[0]
    for picked in (2, 4_000_003):
        monkeypatch.setattr(turning.secrets, "randbelow", lambda _, picked=picked: picked)
        other = service(port=80 + picked % 4)
        receipt = kernel.sync(ruleset=ruleset(DNS, other), document=document(DNS, other))
        assert any("Round robin went on at another backend" in step for step in receipt.steps)
        asked = [ask_udp(wires.udp_client(port=53), backends) for _ in range(4)]
        at = picked % 4
        assert asked == [*BACKENDS[at:], *BACKENDS[:at]], "the cycle itself is the same"


def test_where_a_round_robin_goes_on_is_up_to_chance() -> None:
    """Else a rhythm of applies could favour one backend."""
    one = ruleset(DNS)
    there = parse_save(render_ruleset(one))
    plan = TablePlan(table="nat", write={}, delete=(), jumps=())
    go_on = turning.go_on_elsewhere(one, flavour=Flavour.LEGACY)
    begins = Counter(go_on(plan, there).write["LB-S-dns"] for _ in range(80))
    assert len(begins) == len(BACKENDS), "the chance to miss one is 4 * (3 / 4) ** 80"


def _counters(chain: str, flavour: Flavour = Flavour.NFT) -> list[int]:
    """Packets of each rule of a chain."""
    return [int(n) for n in re.findall(rf"^\[(\d+):\d+\] -A {chain} ", save(flavour, counters=True), re.M)]
