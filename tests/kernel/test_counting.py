"""New connections of each backend, counted exactly through everything that lbadmin writes."""

import os
from collections import Counter
from io import StringIO
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command

from balancer.domain.health_overlay import HealthOverlay, with_health
from balancer.domain.types import Address
from balancer.kernel import counted as counted_module
from balancer.kernel import counter_files, nft_reading
from balancer.kernel import meter as meter_module
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.counter_files import FILE, PREVIOUS
from balancer.kernel.counter_reading import read_counters
from balancer.kernel.counter_table import Kind, Reading
from balancer.kernel.guard_files import GuardError
from balancer.kernel.meter import Meter
from balancer.kernel.nft_reading import NftReading
from balancer.kernel.node import NodeKernel
from balancer.kernel.sampler import Carrying
from balancer.ruleset.compile import compile_document
from balancer.workflow.counting import make_carrying
from tests.kernel.counted_node import Counted, slip_rules_in, version
from tests.kernel.machine import Namespace, document, run, save, service
from tests.kernel.many import PORT, Crowd

CAMPAIGN = "LBADMIN_CAMPAIGN" in os.environ
CONNECTIONS, APPLIES = (10_000, 100) if CAMPAIGN else (1_000, 10)


@pytest.fixture
def counted(kind: tuple[Flavour, DriverName], crowd: Crowd, tmp_path: Path) -> Counted:
    return Counted(flavour=kind[0], driver=kind[1], directory=tmp_path / "counters")


class Visitors:
    """New flows, one after the other, for as long as this goes on: which backend got each."""

    def __init__(self, crowd: Crowd, *, at_least: int) -> None:
        self._crowd, self._at_least = crowd, at_least
        self._done = Event()
        self._thread = Thread(target=self._run)
        self.found: list[Address] = []
        self._next = 1

    def __enter__(self) -> "Visitors":
        # The neighbours are known and the first flows done before anything is in a hurry.
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.is_set() or len(self.found) < self._at_least:
            self.found.append(self._crowd.send([self._next])[self._next])
            self._next += 1
            if not self._done.is_set():
                self._done.wait(0.002)

    @property
    def counts(self) -> dict[str, int]:
        return {f"{address}:{PORT}": count for address, count in Counter(self.found).items()}


def test_connections_are_counted_exactly_through_applies_restarts_and_repairs(
    counted: Counted, crowd: Crowd
) -> None:
    counted.apply(version(crowd, 0))
    said = []
    with counted.sampling() as sampler, Visitors(crowd, at_least=CONNECTIONS) as visitors:
        for number in range(1, APPLIES + 1):
            if number % 4 == 2:
                slip_rules_in(counted.flavour)
            if number % 5 == 3:
                counted.restart()
            said += counted.apply(version(crowd, number))
            if number % 3 == 0:
                for _ in range(3):  # on nft as text, then by handles that are looked for, then by handles
                    said += sampler.look(Carrying(services=version(crowd, number).services)).notes
    said += counted.sample()

    assert len(visitors.found) >= CONNECTIONS
    assert counted.totals() == visitors.counts
    assert not [line for line in said if "count" in line]
    counted.restart().remove()
    assert counted.totals() == visitors.counts


@pytest.fixture
def balanced(crowd: Crowd, tmp_path: Path) -> Counted:
    """One flavour is enough where it is about connections and files."""
    found = Counted(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE, directory=tmp_path / "counters")
    found.apply(version(crowd, 1))
    return found


def count_some(counted: Counted, crowd: Crowd, number: int) -> dict[str, int]:
    """Fifty flows of clients that nobody has seen before."""
    visited = crowd.visit(range(1000 * number + 1, 1000 * number + 51))
    return {f"{address}:{PORT}": count for address, count in Counter(visited.values()).items()}


def test_a_process_that_ends_between_the_two_commits_loses_nothing(
    balanced: Counted, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 3 has another backend less and another timeout, so that chains go and are redone."""
    found = Counter(count_some(balanced, crowd, 1))

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for when in ("_rest", "_look"):
        balanced.apply(version(crowd, 1))
        found.update(count_some(balanced, crowd, 2 + 2 * (when == "_look")))
        with monkeypatch.context() as patch:
            patch.setattr(counted_module.CountedDriver, when, end)
            with pytest.raises(KeyboardInterrupt):
                balanced.apply(version(crowd, 3))
        found.update(count_some(balanced, crowd, 3 + 2 * (when == "_look")))
        balanced.sample()
        balanced.restart()
        balanced.apply(version(crowd, 3))

    assert balanced.totals() == found
    assert balanced.kernel.compare(ruleset=compile_document(version(crowd, 3))).in_sync


def test_a_damaged_table_is_said_and_the_copy_before_it_goes_on(balanced: Counted, crowd: Crowd) -> None:
    found = Counter(count_some(balanced, crowd, 1))
    balanced.sample()
    found.update(count_some(balanced, crowd, 2))
    balanced.sample()
    path = balanced.directory / FILE
    path.write_bytes(path.read_bytes()[:-40])

    (said,) = balanced.sample()

    assert "damaged" in said
    assert "goes on from the copy before it" in said
    assert balanced.totals() == found, "the kernel still knows the rest"
    path.write_text("")
    found.update(count_some(balanced, crowd, 3))
    balanced.sample()
    assert balanced.totals() == found, "the damaged one did not take the place of the copy"


def test_a_table_that_is_lost_goes_on_from_what_is_known_elsewhere(balanced: Counted, crowd: Crowd) -> None:
    found = count_some(balanced, crowd, 1)
    balanced.sample()
    known = {(Kind.BACKEND, ("dns", name)): 1000 + count for name, count in found.items()}
    known[Kind.BACKEND, ("gone", "[2001:db8::1]:80")] = 7
    for name in (FILE, PREVIOUS):
        (balanced.directory / name).write_text("{}")

    with balanced.sampling() as sampler:
        carrying = Carrying(services=version(crowd, 1).services)
        look = sampler.look(carrying, epoch="the one before", told=known)
        again = sampler.look(carrying, epoch=look.epoch, told=known)

    assert any("what the console was told last" in note for note in look.notes)
    assert {("dns", name): 1000 + count for name, count in found.items()}.items() <= look.connections.items()
    assert look.connections["gone", "[2001:db8::1]:80"] == 7
    assert again.connections == look.connections


def test_a_table_that_others_flush_keeps_what_was_seen_and_says_so(balanced: Counted, crowd: Crowd) -> None:
    found = Counter(count_some(balanced, crowd, 1))
    balanced.sample()
    run("iptables-nft", "-t", "nat", "-Z")
    (said,) = balanced.sample()
    assert "began anew, which is not lbadmin's doing" in said
    run("iptables-nft", "-t", "nat", "-F")
    balanced.sample()
    balanced.apply(version(crowd, 1))
    found.update(count_some(balanced, crowd, 2))
    balanced.sample()

    assert balanced.totals() == found


def test_after_a_reboot_counting_goes_on_above_what_was_counted_before(
    balanced: Counted, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many again, so that no number alone tells that the kernel is another one; and rules that somebody
    else has loaded."""
    found = Counter(count_some(balanced, crowd, 1))
    balanced.sample()
    run("iptables-nft-restore", text=save(Flavour.NFT))
    monkeypatch.setattr(meter_module, "read_boot_id", lambda: "another boot")
    balanced.restart()
    for number in (2, 3):
        found.update(count_some(balanced, crowd, number))
    balanced.sample()

    assert balanced.totals() == found


def test_a_full_disk_is_a_warning_and_rules_are_written_all_the_same(
    balanced: Counted, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise GuardError("No space left on device.")

    monkeypatch.setattr(counter_files, "write_file", refuse)

    warnings = balanced.apply(version(crowd, 3))

    assert any("could not be kept: No space left" in text for text in warnings)
    assert balanced.kernel.compare(ruleset=compile_document(version(crowd, 3))).in_sync


@pytest.mark.parametrize(
    ("state", "access", "reason"),
    [("draining", {}, "no-backend"), ("enabled", {"deny": ["198.18.0.0/29"]}, "denied")],
)
def test_refused_connections_are_counted_by_service_and_reason(
    balanced: Counted, crowd: Crowd, state: str, access: dict[str, list[str]], reason: str
) -> None:
    backends = [{"address": str(crowd.plan.backend(0)), "port": PORT, "state": state}]
    refusing = document(service("dns", protocol="udp", port=PORT, backends=backends, access=access))
    balanced.apply(refusing)
    carrying = make_carrying(refusing)
    for number in range(1, 8):
        crowd._send(number, crowd.plan.client(number))

    with balanced.sampling() as sampler:
        look = sampler.look(carrying)

    assert look.refused == {("dns", reason): 7}


def test_what_a_service_refuses_because_all_of_its_backends_are_down_is_counted_too(
    balanced: Counted, crowd: Crowd
) -> None:
    """Health is in no document: where the rule is does not follow from what was approved."""
    backends = [{"address": str(crowd.plan.backend(0)), "port": PORT}]
    checked = {"health": {"kind": "icmp"}, "all_down": "refuse"}
    found = document(service("dns", protocol="udp", port=PORT, backends=backends, **checked))
    (backend,) = found.services[0].backends
    balanced.apply(with_health(found, HealthOverlay(down={"dns": (backend.endpoint,)})))
    for number in range(1, 8):
        crowd._send(number, crowd.plan.client(number))

    with balanced.sampling() as sampler:
        look = sampler.look(make_carrying(found))

    assert look.refused == {("dns", "no-backend"): 7}


def test_a_command_counts_only_where_its_directory_is_of_this_kernel(
    balanced: Counted, crowd: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = count_some(balanced, crowd, 1)
    assert meter_module.meter_of_this_kernel(tmp_path / "another") is None
    monkeypatch.setattr(settings, "LBADMIN_GUARD_DIR", str(balanced.directory))

    call_command("kernel_sync", "--remove", "--flavour", "nft", stdout=StringIO())

    assert balanced.totals() == found


def test_counting_of_packets_is_turned_on_once_and_made_to_last(namespace: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "60-lbadmin.conf"
    kernel = NodeKernel(
        flavour=Flavour.NFT,
        driver=DriverName.IPTABLES_RESTORE,
        meter=Meter(directory=tmp_path / "counters"),
        sysctl_file=path,
    )
    wanted = document(service())

    first, second = (kernel.sync(ruleset=compile_document(wanted), document=wanted).steps for _ in range(2))

    assert Path("/proc/sys/net/netfilter/nf_conntrack_acct").read_text() == "1\n"
    assert any("Turned the counting of packets and bytes on" in step for step in first)
    lines = path.read_text().splitlines()
    assert lines[1:] == [
        "net.ipv4.ip_forward = 1",
        "net.netfilter.nf_conntrack_acct = 1",
        "net.netfilter.nf_conntrack_events = 1",
    ]
    assert not any("counting" in step for step in second)


def test_what_the_rules_of_nft_count_is_read_by_their_handles_as_the_save_tool_tells_it(
    balanced: Counted, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, texts = NftReading(family=crowd.family), 0

    def as_text(**asked: Any) -> Reading:
        nonlocal texts
        texts += 1
        return read_counters(**asked)

    monkeypatch.setattr(nft_reading, "read_counters", as_text)

    def assert_alike() -> None:
        found, told = reading.read(), read_counters(flavour=Flavour.NFT, family=crowd.family)
        assert (found.backends, found.lengths, found.watched) == (told.backends, told.lengths, told.watched)

    assert_alike()
    crowd.visit(range(1, 101))
    assert_alike()
    assert_alike()
    assert texts == 1
    balanced.apply(version(crowd, 3))
    crowd.visit(range(101, 151))
    assert_alike()
    assert texts == 2, "there are other rules"
    crowd.visit(range(151, 171))
    assert_alike()
    slip_rules_in(Flavour.NFT)
    assert_alike()
    assert texts == 3
