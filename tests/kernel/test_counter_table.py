"""What is made of readings of counters, without a kernel."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from balancer.kernel.counter_reading import parse_counters
from balancer.kernel.counter_table import CounterTable, Kind, Reading, place_of_chain, read_rows, write_rows
from balancer.kernel.flow_counts import Carried, FlowCounts, read_entry
from balancer.kernel.meter import Meter
from balancer.ruleset.names import backend_chain, service_chain
from tests.kernel.machine import document, service

CHAIN = "LB-S-web:10.0.0.3-80"
ONE = ("tcp", "198.51.100.1", "80", "10.0.0.3", "80")


def reading(*counts: int) -> Reading:
    return Reading(family=Family.IPV4, backends={CHAIN: counts} if counts else {})


def total(table: CounterTable) -> int:
    return table.series[CHAIN].total


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["go on", "delete", "redo", "look", "crash"])),
        max_size=30,
    )
)
def test_a_chain_that_goes_and_is_redone_in_any_order_loses_no_connection(
    deeds: list[tuple[int, str]],
) -> None:
    """The kernel's part is played here: rules that count, old rules that wait to be cut, chains that go."""
    table, rules, truth = CounterTable(epoch="one"), [0], 0
    for new, deed in deeds:
        if not rules:
            table.begin([CHAIN], family=Family.IPV4, place_of=None)
            rules = [0]
        rules[0] += new
        truth += new
        if deed == "delete":
            table.see(reading(*rules))
            rules = []
        elif deed in {"redo", "crash"}:
            table.see(reading(*rules))
            rules.insert(0, 0)
            table.see(reading(*rules))
            if deed == "redo":
                del rules[1:]
        elif deed == "look":
            table.see(reading(*rules))
    table.see(reading(*rules))

    assert total(table) == truth
    assert read_rows(write_rows(table)) == table.series


def test_a_chain_says_whose_it_is_unless_its_name_was_cut() -> None:
    found = document(service("web", port=80), service("a-service-with-a-long-name", port=81))
    names = {
        backend_chain(one.name, backend.address, backend.port): (one.name, backend.endpoint)
        for one in found.services
        for backend in one.backends
    }
    for chain, place in names.items():
        assert place_of_chain(chain) == (place if place[0] == "web" else None)
    assert place_of_chain(service_chain("web")) is None
    assert place_of_chain("LB-S-a-service-with-a-lon:0123456789") is None


def test_only_rules_that_send_to_a_backend_count_and_others_are_there_by_number() -> None:
    text = "\n".join(
        [
            "*nat",
            ":LB-S-web - [0:0]",
            f":{CHAIN} - [0:0]",
            f'[9:900] -A PREROUTING -m comment --comment "x\n[7:1] -A {CHAIN} -j DNAT a" -j ACCEPT',
            "[3:180] -A LB-S-web -j CONNMARK --set-xmark 0x10000000/0x70000000",
            f"[0:0] -A LB-S-web -g {CHAIN}",
            f"[2:120] -A {CHAIN} -p tcp -j DNAT --to-destination 10.0.0.3:80",
            f"[1:60] -A {CHAIN} -p tcp -j DNAT --to-destination 10.0.0.3:80",
            "COMMIT",
            "",
        ]
    )

    found = parse_counters(text, family=Family.IPV4)

    assert found.backends == {CHAIN: (2, 1)}
    assert found.lengths[CHAIN] == 2
    assert found.rules == {("nat", "LB-S-web", 0): (3, 180, "-j CONNMARK --set-xmark 0x10000000/0x70000000")}


def test_counters_that_are_zero_for_a_moment_are_looked_at_again(tmp_path: Path) -> None:
    """iptables-legacy puts the counters back in a call of its own."""
    readings = iter([reading(5), reading(0), reading(6)])
    pauses: list[float] = []
    meter = Meter(directory=tmp_path / "c", read=lambda **_: next(readings), pause=pauses.append)

    meter.look(flavour=Flavour.LEGACY, family=Family.IPV4)
    meter.look(flavour=Flavour.LEGACY, family=Family.IPV4)

    assert total(meter.table()) == 6
    assert len(pauses) == 1
    assert meter.take_warnings() == ()


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    meter = Meter(directory=tmp_path / "c", read=lambda **_: reading(5))
    meter.look(flavour=Flavour.LEGACY, family=Family.IPV4)
    before = (tmp_path / "c" / "counters.json").stat().st_mtime_ns

    meter.look(flavour=Flavour.LEGACY, family=Family.IPV4)

    assert (tmp_path / "c" / "counters.json").stat().st_mtime_ns == before


def test_totals_from_elsewhere_are_taken_over_once() -> None:
    table = CounterTable(epoch="two")
    table.see(reading(5))
    told = {(Kind.BACKEND, ("web", "10.0.0.3:80")): 100}
    table.adopt(told)
    table.adopt(told)
    table.see(reading(7))

    assert total(table) == 102


def test_a_table_that_was_put_back_from_an_older_copy_counts_on_from_what_was_told() -> None:
    table = CounterTable(epoch="one")
    table.see(reading(5))
    told = {(Kind.BACKEND, ("web", "10.0.0.3:80")): 100}
    table.catch_up(told)
    table.see(reading(8))
    table.catch_up(told)

    assert total(table) == 103


@pytest.mark.parametrize(
    ("line", "carried"),
    [
        (
            "tcp      6 431999 ESTABLISHED src=198.51.100.2 dst=198.51.100.1 sport=5 dport=80 packets=3"
            " bytes=180 src=10.0.0.3 dst=10.0.0.1 sport=80 dport=5 packets=2 bytes=120 [ASSURED]"
            " mark=268435456 use=1",
            Carried(5, 300, 1),
        ),
        (
            "tcp      6 9 SYN_SENT src=198.51.100.2 dst=198.51.100.1 sport=5 dport=80 packets=1 bytes=60"
            " [UNREPLIED] src=10.0.0.3 dst=10.0.0.1 sport=80 dport=5 packets=0 bytes=0 mark=805306368",
            Carried(1, 60, 0),
        ),
    ],
)
def test_entries_are_read_as_they_are(line: str, carried: Carried) -> None:
    assert read_entry(line) == (ONE, carried)
    assert read_entry(line.replace("mark=", "mark=1 x=")) is None, "not ours"
    assert read_entry(line.replace(" bytes=", " b=")) is None, "not accounted"


def test_what_goes_is_told_of_once_however_late_it_is_heard() -> None:
    counts = FlowCounts()
    told = 0

    def look(live: int | None, gone: int | None, *, later: int = 0) -> None:
        nonlocal told
        found = counts.see(
            {ONE: Carried(live, 10 * live)} if live is not None else {},
            {ONE: Carried(gone, 10 * gone)} if gone is not None else {},
            later={ONE: Carried(later, 10 * later)},
        )
        told += found.get(ONE, (0, 0))[0]

    look(100, None)
    look(130, None)
    assert told == 30, "what was there at the beginning does not count"
    look(20, None, later=115)  # one with 110 packets at that time has gone, and is heard of in a moment
    look(25, 115)
    assert told == 40
    look(None, 30)
    assert told == 45
    look(None, None)
    look(7, None)
    assert told == 52


def test_what_went_without_being_heard_of_does_not_hide_what_comes_after_it() -> None:
    counts = FlowCounts()

    def look(live: int) -> int:
        return counts.see({ONE: Carried(live, 10 * live)} if live else {}, {}).get(ONE, (0, 0))[0]

    assert [look(1000), look(1100), look(0)] == [0, 100, 0]
    assert look(1100) == 0, "one look may miss an entry that is there all the time"
    assert [look(0), look(30), look(50)] == [0, 0, 20]
    assert counts.unheard == 0
    assert look(60) == 10
