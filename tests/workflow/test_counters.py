"""What nodes counted, in rows: nothing twice, nothing lost, fine for a day and coarse for a month."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError

from balancer.domain.counters import COARSE, FINE, ServicePoint
from balancer.kernel.base import KernelError
from balancer.kernel.counter_table import Kind
from balancer.kernel.flow_counts import Carried
from balancer.kernel.sampler import Look
from balancer.models import CounterSample, CounterSlice, CounterState, CounterTotal, Node
from balancer.workflow import counters
from balancer.workflow import counting as counting_module
from balancer.workflow.counters import read_sample, read_slice, totals_told
from balancer.workflow.counting import CountingMemory, count_node
from tests.cast import Site
from tests.workflow.moving import ONE, TWO, web

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


class Counting:
    """A process that counts on lb1, whose kernel says what the test says."""

    def __init__(self, site: Site) -> None:
        site.deploy(web())
        self.node = Node.objects.get(name="lb1")
        self.now, self.epoch = BEGIN, "first"
        self.connections: dict[tuple[str, str], int] = {}
        self.refused: dict[tuple[str, str], int] = {}
        self.carried: dict[tuple[str, str], Carried] = {}
        self.notes: tuple[str, ...] = ()
        self.asked: list[tuple[str, Mapping[object, int]]] = []
        self.steady = 0.0
        self.restart()
        self.tick(after=0)

    def restart(self) -> None:
        self.memory = CountingMemory()

    def tick(self, *, connections: int = 0, after: float = FINE, packets: int = 0, set_by: float = 0) -> None:
        """`after` so many seconds, in which somebody sets the clock by some."""
        self.now += timedelta(seconds=after + set_by)
        self.steady += after
        if connections:
            self.connections["web", ONE] = self.connections.get(("web", ONE), 0) + connections
        self.carried = {("web", ONE): Carried(packets, 100 * packets, 3)} if packets else {}
        self.count(self.memory)

    def count(self, memory: CountingMemory) -> None:
        count_node(
            node_name="lb1",
            look=self._look,
            memory=memory,
            clock=lambda: self.now,
            steady=lambda: self.steady,
        )

    def _look(self, carrying: object, *, epoch: str, told: Mapping[object, int]) -> Look:
        self.asked.append((epoch, dict(told)))
        return Look(
            epoch=self.epoch,
            connections=dict(self.connections),
            refused=dict(self.refused),
            carried=self.carried,
            notes=self.notes,
        )

    @property
    def told(self) -> int:
        return totals_told(self.node).get((Kind.BACKEND, ("web", ONE)), 0)

    def last_seconds(self) -> float:
        """Of the look before, how long it was."""
        return CounterSample.objects.order_by("-at").values_list("seconds", flat=True)[0]

    def last_point(self) -> ServicePoint:
        sample = CounterSample.objects.order_by("-at").first()
        assert sample is not None
        return read_sample(sample).get("web", ServicePoint())


@pytest.fixture
def counting(site: Site) -> Counting:
    return Counting(site)


def test_a_look_keeps_what_happened_since_the_one_before(counting: Counting) -> None:
    counting.tick(connections=5)
    counting.tick(connections=7, packets=40)

    point = counting.last_point()
    assert point.backends[ONE] == (7, 40, 4000, 3, 2500)
    assert point.backends[TWO] == (0, 0, 0, 0, 2500), "with the share that was declared for it"
    assert CounterSample.objects.values_list("seconds", flat=True).order_by("-at").first() == FINE
    assert counting.told == 12


def test_a_look_at_a_node_where_nothing_happens_keeps_no_service(counting: Counting) -> None:
    counting.tick(connections=5)
    counting.tick()

    assert read_sample(CounterSample.objects.order_by("at").last()) == {}


def test_refusals_are_kept_by_reason(counting: Counting) -> None:
    counting.refused["web", "no-backend"] = 4
    counting.tick()
    counting.refused["web", "no-backend"] = 9
    counting.tick()

    assert counting.last_point().refused == {"no-backend": 5}


def test_five_minutes_become_slices_and_totals_once_they_are_over(counting: Counting) -> None:
    for _ in range(30):
        counting.tick(connections=2, packets=10)
    assert CounterSlice.objects.count() == 0
    counting.tick(connections=1)

    (row,) = CounterSlice.objects.exclude(service_name="")
    found = read_slice(row)
    assert (row.service_name, row.step, row.start) == ("web", FINE, BEGIN)
    assert found.offsets == tuple(range(10, 301, 10))
    assert [point.backends[ONE][0] for point in found.points] == [2] * 30
    total = CounterTotal.objects.get(name=ONE)
    assert (total.count, total.packets, total.bytes) == (60, 300, 30_000)
    assert CounterSample.objects.count() == 1
    assert counting.told == 61


def test_a_process_that_is_started_again_goes_on_where_the_rows_end(counting: Counting) -> None:
    for _ in range(33):
        counting.tick(connections=2)
    counting.connections["web", ONE] += 50  # nobody looked for a while
    counting.restart()
    counting.tick(connections=1, after=120)

    assert counting.last_point().backends[ONE][0] == 51
    assert CounterSample.objects.values_list("seconds", flat=True).order_by("-at").first() == 120
    assert counting.told == sum(counting.connections.values())


def test_a_process_that_ended_in_the_middle_of_making_slices_counts_nothing_twice(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(30):
        counting.connections["other", TWO] = counting.connections.get(("other", TWO), 0) + 1
        counting.tick(connections=2)
    monkeypatch.setattr(counters, "BATCH", 1)
    calls = iter((False, False, True))
    real = counters._slice_some

    def stop_at_the_third(**arguments: object) -> None:
        if next(calls):
            raise KeyboardInterrupt
        real(**arguments)

    monkeypatch.setattr(counters, "_slice_some", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        counting.tick(connections=2)
    assert CounterSlice.objects.count() == 2
    monkeypatch.setattr(counters, "_slice_some", real)
    counting.restart()
    counting.tick()

    assert {name: total for (_, (name, _)), total in totals_told(counting.node).items() if total} == {
        "web": 62,
        "other": 30,
    }
    assert CounterSlice.objects.count() == 3


def test_what_the_node_forgot_goes_on_from_what_the_rows_say(counting: Counting) -> None:
    counting.tick(connections=5)
    counting.restart()
    counting.tick()

    assert counting.asked[-1] == ("first", {(Kind.BACKEND, ("web", endpoint)): 5 if endpoint == ONE else 0
                                            for (_, (_, endpoint)) in counting.asked[-1][1]})  # fmt: skip
    counting.epoch, counting.notes = "second", ("The file is damaged.",)
    counting.tick()
    state = CounterState.objects.get()
    assert state.epoch == "second"
    assert state.notes[0]["text"] == "The file is damaged."


def test_a_clock_that_is_set_back_loses_no_connection(counting: Counting) -> None:
    counting.tick(connections=5, packets=10)
    counting.tick(connections=5, packets=10, set_by=-1800)
    for _ in range(3):
        counting.tick(packets=600, after=590)
    assert CounterSample.objects.filter(node=counting.node).count() == 1
    assert "nothing is plotted meanwhile" in CounterState.objects.get().notes[0]["text"]
    counting.tick(packets=20, after=30)

    assert counting.told == 10
    point = counting.last_point()
    assert (point.backends[ONE][:2], counting.last_seconds()) == ((5, 1830), 1810), "at its true rate"


def test_a_clock_that_was_wrong_for_a_day_stops_nothing_once_it_is_right(counting: Counting) -> None:
    counting.tick(connections=5)
    counting.tick(connections=5, set_by=24 * 3600)
    assert counting.last_seconds() == FINE, "so long it was"
    counting.tick(connections=7, set_by=-24 * 3600)

    sample = CounterSample.objects.get(at=counting.now)
    assert read_sample(sample)["web"].backends[ONE][0] == 7
    assert sample.seconds == FINE
    assert counting.told == 17
    counting.tick(connections=1, after=300)
    row = CounterSlice.objects.get(service_name="web", start=BEGIN)
    assert (read_slice(row).offsets, counting.told) == ((10, 30), 18), "the slice of before goes on"
    assert any("set back" in note["text"] for note in CounterState.objects.get().notes)


def test_a_clock_that_leaps_a_year_ahead_for_a_while_lets_nothing_go(
    counting: Counting,
) -> None:
    for _ in range(31):
        counting.tick(connections=1)
    counting.tick(set_by=365 * 24 * 3600)
    counting.tick(after=600)
    assert CounterSlice.objects.filter(service_name="web", step=FINE).count() == 2
    counting.tick(set_by=-365 * 24 * 3600)
    counting.tick(after=36 * 3600)

    assert not CounterSlice.objects.filter(service_name="web", step=FINE).exists(), "now it is a day old"
    assert CounterSlice.objects.filter(service_name="web", step=COARSE).exists()


def test_what_was_counted_before_anybody_looked_is_in_the_totals_and_at_no_time(counting: Counting) -> None:
    CounterState.objects.all().delete()
    counting.restart()
    counting.connections["web", ONE] = 1_000_000
    counting.tick()
    assert CounterSample.objects.count() == 0
    counting.tick(connections=3)

    assert counting.last_point().backends[ONE][0] == 3
    assert counting.told == 1_000_003


def test_packets_of_a_look_that_could_not_be_kept_come_with_the_next(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting.tick(packets=10)

    def fail(*_: object, **__: object) -> bool:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(counting_module, "record_look", fail)
        for _ in range(2):
            with pytest.raises(OperationalError):
                counting.tick(connections=1, packets=10)
    counting.tick(connections=1, packets=10)

    assert counting.last_point().backends[ONE][:3] == (3, 30, 3000)
    assert counting.last_seconds() == 3 * FINE


def test_a_look_that_was_kept_although_what_is_due_failed_is_told_of_once(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(counters, "forget_old", fail)
        with pytest.raises(OperationalError):
            counting.tick(connections=1, packets=10)
    counting.tick(connections=1, packets=10)

    assert counting.last_point().backends[ONE][:2] == (1, 10)
    assert counting.told == 2


def test_two_processes_that_count_the_same_node_count_no_connection_twice(counting: Counting) -> None:
    other = CountingMemory()
    for _ in range(6):
        counting.tick(connections=2)
        counting.now += timedelta(seconds=5)
        counting.connections["web", ONE] += 1
        counting.count(other)
        counting.now += timedelta(seconds=5)

    assert counting.told == counting.connections["web", ONE]


def test_what_cannot_be_read_is_said_once(counting: Counting) -> None:
    def fail(*_: object, **__: object) -> Look:
        raise KernelError("conntrack said: no")

    for _ in range(3):
        count_node(node_name="lb1", look=fail, memory=counting.memory, clock=lambda: counting.now)

    assert [note["text"] for note in CounterState.objects.get().notes] == ["conntrack said: no"]


def test_a_day_old_slices_become_coarse_and_a_month_old_ones_go(counting: Counting) -> None:
    for _ in range(2 * 30 + 1):
        counting.tick(connections=1, packets=2)
    fine = CounterSlice.objects.filter(step=FINE, service_name="web", start__lt=BEGIN + timedelta(minutes=10))
    assert fine.count() == 2
    counting.tick(after=29 * 3600)
    assert fine.count() == 2, "six hours are not a day old yet"
    counting.tick(after=7 * 3600)

    (row,) = CounterSlice.objects.filter(step=COARSE, service_name="web")
    found = read_slice(row)
    assert fine.count() == 0
    assert (row.start, found.offsets[:2]) == (BEGIN, (300, 600))
    assert found.points[0].backends[ONE] == (30, 60, 6000, 3, 2500)
    assert found.seconds[:2] == (300, 300)
    before = counting.told
    counting.tick(after=31 * 24 * 3600)
    counting.tick()
    assert not CounterSlice.objects.filter(start=BEGIN).exists()
    assert counting.told == before, "totals stay"
