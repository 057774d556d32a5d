"""What the clients report is what happened."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from balancer.lab.article import EXPECTED_LOSS, load_rules, method_one, method_two
from balancer.lab.client import TIMED_OUT
from balancer.lab.errors import LabError
from balancer.lab.topology import Lab
from balancer.lab.traffic import BackgroundTraffic, list_sources, open_connections, send_datagrams
from tests.lab.rules import remove_rules, restore
from tests.stopwatch import Stopwatch

pytestmark = pytest.mark.kernel

DROP_EVERY_FOURTH = (
    "*filter\n:FORWARD ACCEPT\n"
    "-A FORWARD -p {protocol} -m conntrack --ctstate NEW"
    " -m statistic --mode nth --every 4 --packet 0 -j {verdict}\nCOMMIT\n"
    "*nat\nCOMMIT\n"
)


def test_refused_and_silent_connections_are_told_apart(lab: Lab) -> None:
    remove_rules(lab)
    restore(lab=lab, flavour="nft", text=DROP_EVERY_FOURTH.format(protocol="tcp", verdict="DROP"))
    watch = Stopwatch()  # and no SYN is sent again within a second
    silent = open_connections(lab=lab, address="10.0.0.9", port=80, count=40, concurrency=10, timeout=0.9)
    assert (dict(silent.answered), dict(silent.lost)) == ({"10.0.0.9:80": 30}, {TIMED_OUT: 10})
    assert watch.own < 4
    reset = "REJECT --reject-with tcp-reset"
    restore(lab=lab, flavour="nft", text=DROP_EVERY_FOURTH.format(protocol="tcp", verdict=reset))
    refused = open_connections(lab=lab, address="10.0.0.9", port=80, count=40)
    assert (refused.refused, refused.timed_out, refused.lost_total) == (10, 0, 10)


def test_five_thousand_flows_take_seconds_and_each_is_a_new_one(lab: Lab) -> None:
    remove_rules(lab)
    restore(lab=lab, flavour="nft", text=DROP_EVERY_FOURTH.format(protocol="udp", verdict="DROP"))
    watch = Stopwatch()
    report = send_datagrams(lab=lab, address="10.0.0.9", port=53, count=5000, timeout=0.4, concurrency=128)
    assert report.answered == {"10.0.0.9:53": 3750}
    assert report.timed_out == 1250
    assert watch.own < 20


def test_the_backends_see_the_sources_that_the_clients_used(lab: Lab) -> None:
    remove_rules(lab)
    sources = list_sources(lab=lab, count=5)
    report = open_connections(lab=lab, address="10.0.0.9", port=80, count=10, sources=sources)
    assert report.peers == dict.fromkeys(sources, 2)
    flows = send_datagrams(lab=lab, address="10.0.0.9", port=53, count=10, sources=sources)
    assert flows.peers == dict.fromkeys(sources, 2)


@pytest.mark.parametrize("method", [method_one, method_two])
def test_a_third_of_the_connections_is_lost_under_the_rules_of_the_article(
    lab: Lab, flavour: str, method: Callable[[], tuple[str, ...]]
) -> None:
    remove_rules(lab)
    load_rules(lab=lab, machine="lb1", flavour=flavour, rules=method())
    report = open_connections(lab=lab, address="10.0.0.1", port=80, count=400, timeout=0.4)
    # Here the balancer itself has something on port 80, and that is where the lost ones end.
    lost = report.lost_total + report.answered["10.0.0.1:80"]
    low, high = EXPECTED_LOSS
    assert low <= lost / 400 <= high
    if method is method_one:
        assert report.answered == {
            "10.0.0.1:80": 127,
            "10.0.0.3:80": 100,
            "10.0.0.4:80": 75,
            "10.0.0.5:80": 56,
            "10.0.0.6:80": 42,
        }


def test_background_traffic_is_steady_counted_and_ends(lab: Lab, tmp_path: Path) -> None:
    remove_rules(lab)
    status = tmp_path / "traffic.json"
    targets = [("10.0.0.3", 80), ("10.0.0.4", 80), ("10.0.0.5", 81)]
    with BackgroundTraffic(lab=lab, targets=targets, status_path=status, per_second=60) as traffic:
        started = time.monotonic()
        while (seen := count(traffic)) < 60:
            assert time.monotonic() - started < 60
            time.sleep(0.05)
        assert seen <= 60 * (time.monotonic() - started + 1)
    final = traffic.read_status()
    assert final is not None
    answered = {name: target["answered"] for name, target in final["targets"].items()}
    assert set(answered["10.0.0.3:80"]) == {"10.0.0.3:80"}
    assert set(answered["10.0.0.4:80"]) == {"10.0.0.4:80"}
    assert (answered["10.0.0.5:81"], set(final["targets"]["10.0.0.5:81"]["lost"])) == ({}, {"refused"})


def count(traffic: BackgroundTraffic) -> int:
    status = traffic.read_status() or {"targets": {}}
    return sum(
        sum(target["answered"].values()) + sum(target["lost"].values())
        for target in status["targets"].values()
    )


def test_clients_that_do_not_end_in_time_are_stopped_and_told_of_in_a_sentence(lab: Lab) -> None:
    remove_rules(lab)
    restore(lab=lab, flavour="nft", text=DROP_EVERY_FOURTH.format(protocol="tcp", verdict="DROP"))
    with pytest.raises(LabError, match="had not ended after 0 s and were stopped"):
        open_connections(lab=lab, address="10.0.0.9", port=80, count=4, timeout=30, within=0.4)
    with pytest.raises(LabError, match="had not ended on client after 0 s"):
        lab.run(machine="client", command=["sleep", "30"], timeout=0.2)
