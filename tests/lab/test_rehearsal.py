"""A rehearsal passes what is right and refuses a compiler that is wrong, with the measured numbers."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from balancer.domain.types import Document
from balancer.factories import make_rehearse, rehearsal_loader
from balancer.lab.errors import GaveWay
from balancer.lab.fake import FakeRehearsals
from balancer.lab.record import RECORDS
from balancer.lab.rehearsal import Limits, Loaded, Rehearsal
from balancer.lab.rehearse import PREFIX, rehearse
from balancer.lab.traffic import Report, visit
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, Ruleset
from balancer.ruleset.targets import Dnat, Masquerade
from tests.documents import backend_data, document, document_data, service_data
from tests.lab.spoil import dropped_rule, forgotten_masquerade, spoil_rules, wrong_port, wrong_share

ROOT = Path(__file__).parents[2]
RUNS = 200 if "LBADMIN_CAMPAIGN" in os.environ else 1
VIRTUAL = "203.0.113.1"
PAIR = [backend_data("10.0.0.3"), backend_data("192.0.2.4", port=8080, weight=3)]
OPEN = {"source_nat": {"mode": "none"}}

EVERYTHING = document(
    service_data("web"),
    service_data("dns", protocol="udp", port=53, address=VIRTUAL, backends=PAIR, **OPEN),
    service_data("chance", interface="eth1", port=81, scheduler="random", backends=PAIR[:1], **OPEN),
    service_data("dice", protocol="udp", port=82, scheduler="random", backends=PAIR),
    service_data("elsewhere", interface="eth1", address=VIRTUAL, port=53),
    service_data("full", port=83, backends=[]),
    service_data("silent", protocol="udp", port=83, backends=[]),
    service_data("off", port=84, enabled=False),
    service_data("sticky", port=85, persistence={"mode": "source", "prefix": 24}, backends=PAIR),
)


def run_rehearsal(one: Document, flavour: str, *, ruleset: Ruleset | None = None) -> Rehearsal:
    return rehearse(document=one, load=rehearsal_loader(flavour=flavour), rulesets=ruleset and [ruleset])


def list_names() -> set[str]:
    """What may not change: the names in /run/netns, and the records of labs."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    mine = {line for line in done.stdout.splitlines() if PREFIX in line}
    return mine | {str(path) for path in Path("/run/lbadmin-lab").glob(f"{PREFIX}*")}


@pytest.mark.kernel
def test_a_correct_ruleset_passes_every_time_and_leaves_nothing(flavour: str) -> None:
    for _ in range(RUNS):
        result = run_rehearsal(EVERYTHING, flavour)
        assert result.passed, result.verdict + str([s.verdict for s in result.services if not s.passed])
    assert list_names() == set()
    assert {one.name for one in result.services} == {s.name for s in EVERYTHING.services} - {"off"}
    by_name = {one.name: one for one in result.services}
    assert [end.measured for end in by_name["web"].endpoints] == [100] * 4
    assert all(one.sent >= 400 for name, one in by_name.items() if name != "silent")
    assert by_name["full"].refused == by_name["full"].sent
    assert len(by_name["web"].sources) == 1
    assert len(by_name["dns"].sources) > 1
    assert json.loads(json.dumps(result.to_data()))["digest"] == result.loaded.digest
    assert len(result.loaded.digest) == 64


WRONG = (
    (wrong_share, "round-robin", ("10.0.0.3:80 got 200 of 400 connections (50.0 %), where 100 (25.0 %)",)),
    (wrong_share, "random", ("10.0.0.3:80 got", "(25.0 %) are promised, which chance explains with p =")),
    (dropped_rule, "round-robin", ("100 of 400 connections were answered by the balancer itself",)),
    (forgotten_masquerade, "round-robin", ("clients' addresses as the source of 400 of 400 connections",)),
    (wrong_port, "round-robin", ("100 of 400 connections were lost (100 refused, 0 unanswered)",)),
)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("spoil", "scheduler", "said"), WRONG, ids=[f"{one[0].__name__}-{one[1]}" for one in WRONG]
)
def test_a_spoilt_compiler_is_refused_with_the_measured_numbers(
    flavour: str, spoil: Callable[[str, Rule], Rule | None], scheduler: str, said: tuple[str, ...]
) -> None:
    one = document(service_data(scheduler=scheduler))
    ruleset = compile_document(one)
    spoilt = spoil_rules(ruleset, spoil)
    assert spoilt != ruleset
    result = run_rehearsal(one, flavour, ruleset=spoilt)
    assert not result.passed
    assert result.loaded.error is None
    assert result.verdict.startswith("Failed: web did not do what is promised")
    for part in said:
        assert part in result.services[0].verdict


@pytest.mark.kernel
@pytest.mark.parametrize("spoil", [None, wrong_share, dropped_rule, forgotten_masquerade])
def test_the_rehearsal_in_memory_says_what_the_real_one_says(
    spoil: Callable[[str, Rule], Rule | None] | None,
) -> None:
    one = document(service_data(), service_data("full", port=83, backends=[]))
    ruleset = compile_document(one)
    ruleset = ruleset if spoil is None else spoil_rules(ruleset, spoil)
    found = [
        rehearse(document=one, rulesets=[ruleset], touched={"web"})
        for rehearse in (make_rehearse(flavour="nft", driver="auto"), FakeRehearsals())
    ]
    real, fake = [
        (
            one.passed,
            one.loaded,
            [(s.name, s.touched, s.passed, sorted(s.to_data())) for s in one.services],
            sorted(one.to_data()),
        )
        for one in found
    ]
    assert real == fake
    assert real[0] is (spoil is None)


@pytest.mark.kernel
def test_a_spoilt_untouched_service_is_found_by_its_probes(flavour: str) -> None:
    one = document(service_data("calm"), service_data("new", port=81))
    spoilt = spoil_rules(compile_document(one), forgotten_masquerade)
    result = rehearse(
        document=one, load=rehearsal_loader(flavour=flavour), rulesets=[spoilt], touched={"new", "deleted"}
    )
    assert [(s.name, s.touched, s.sent, s.passed) for s in result.services] == [
        ("new", True, 400, False),
        ("calm", False, 4, False),
    ]
    assert [(o.name, o.reason) for o in result.omitted] == [("deleted", "it is not in the document")]


@pytest.mark.kernel
def test_a_rule_that_the_kernel_refuses_is_told_in_its_own_words(flavour: str) -> None:
    def misplaced_masquerade(name: str, rule: Rule) -> Rule | None:
        return replace(rule, target=Masquerade()) if isinstance(rule.target, Dnat) else rule

    one = document(service_data())
    result = run_rehearsal(one, flavour, ruleset=spoil_rules(compile_document(one), misplaced_masquerade))
    assert not result.passed
    assert result.services == ()
    assert result.loaded.error is not None
    assert result.loaded.error in result.verdict


@pytest.mark.kernel
def test_a_service_whose_connections_stay_unanswered_is_not_waited_for() -> None:
    def into_the_void(name: str, rule: Rule) -> Rule | None:
        nobody = Dnat(IPv4Address("192.0.2.99"), 80)
        return replace(rule, target=nobody) if isinstance(rule.target, Dnat) else rule

    one = document(service_data())
    result = run_rehearsal(one, "nft", ruleset=spoil_rules(compile_document(one), into_the_void))
    assert not result.passed
    assert result.services[0].verdict == "16 of 16 connections were lost (0 refused, 16 unanswered)."


@pytest.mark.kernel
def test_nobody_else_sees_the_namespaces_of_a_rehearsal_that_goes_on() -> None:
    one, load, seen = document(service_data()), rehearsal_loader(flavour="nft"), []
    with ThreadPoolExecutor(max_workers=1) as outside:
        outside.submit(int).result()  # starts the thread here, before the rehearsal has mounts of its own

        def look_and_load(place: Path, locks: Path, ruleset: Ruleset, whole: Document) -> Loaded:
            assert place.exists()
            seen.append((outside.submit(list_names).result(), outside.submit(place.exists).result()))
            return load(place, locks, ruleset, whole)

        assert rehearse(document=one, load=look_and_load).passed
    assert seen == [(set(), False)]


@pytest.mark.kernel
def test_a_balancer_of_another_lab_rehearses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the demo, where the lock of a balancer lies among the records of the lab that it lives in."""
    lock = RECORDS / "lbr-elsewhere" / "lb1.xtables.lock"
    monkeypatch.setenv("XTABLES_LOCKFILE", str(lock))
    rehearse_here = make_rehearse(flavour="legacy", driver="auto")
    one = document(service_data(backends=[]))
    assert rehearse_here(document=one, rulesets=[compile_document(one)], touched=()).passed
    assert not lock.parent.exists()


@pytest.mark.kernel
def test_what_comes_after_the_time_limit_is_no_pass() -> None:
    one = document(service_data("calm"), service_data("new", port=81))
    load = rehearsal_loader(flavour="nft")
    result = rehearse(document=one, load=load, touched={"new"}, limits=Limits(seconds=0))
    assert not result.passed
    assert result.verdict == (
        "Failed: there was no time for new. 0 services measured, 0 probed, 2 left out."
        " Changed, but not measured: new (the rehearsal had taken 0 s already)."
    )


@pytest.mark.kernel
def test_a_service_that_is_not_done_when_the_time_is_over_was_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]

    def connect_for_long(**options: Any) -> Report:
        report = visit(**options)
        now[0] += 100
        return report

    monkeypatch.setattr("balancer.lab.rehearse.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("balancer.lab.visitor.visit", connect_for_long)
    result = rehearse(document=document(service_data()), load=rehearsal_loader(flavour="nft"))
    assert not result.passed
    assert [(o.name, o.reason) for o in result.unmeasured] == [
        ("web", "the time was over after 16 of 400 connections")
    ]
    assert result.verdict.startswith("Failed: there was no time for web.")


@pytest.mark.kernel
def test_a_pass_says_which_touched_services_it_says_nothing_about() -> None:
    one = document(
        service_data("first", backends=[backend_data("10.0.0.3")]),
        service_data("second", port=81, backends=[backend_data("10.0.0.3")]),
        service_data("third", port=82, backends=[backend_data("10.0.0.3")]),
        service_data("local", interface="lo", port=83),
    )
    result = rehearse(
        document=one,
        load=rehearsal_loader(flavour="nft"),
        touched={"first", "second", "third", "local", "deleted"},
        limits=Limits(connections=4, touched=1, probed=1),
    )
    assert result.passed, result.verdict
    assert len(result.unmeasured) == 3
    assert {(o.reason) for o in result.unmeasured} == {
        "4 probes only, as others are in the sample",
        "not in the sample",
        "the lab cannot have an interface lo",
    }
    assert "Changed, but not measured: " in result.verdict
    assert all(f"{one.name} ({one.reason})" in result.verdict for one in result.unmeasured)


@pytest.mark.kernel
def test_who_waits_for_a_rehearsal_is_called_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.lab.private._MEANWHILE_SECONDS", 0.01)
    called: list[str] = []
    result = rehearse(
        document=document(service_data()),
        load=rehearsal_loader(flavour="nft"),
        limits=Limits(connections=4),
        meanwhile=lambda: called.append(threading.current_thread().name),
    )
    assert result.passed
    assert set(called) == {threading.current_thread().name}


@pytest.mark.kernel
def test_a_rehearsal_gives_way_to_what_cannot_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balancer.lab.private._MEANWHILE_SECONDS", 0.01)

    def stop() -> None:
        raise GaveWay("Something goes first.")

    with pytest.raises(GaveWay, match="Something goes first"):
        rehearse(document=document(service_data()), load=rehearsal_loader(flavour="nft"), meanwhile=stop)


def write(path: Path, *services: dict[str, object]) -> Path:
    file = path / "document.json"
    file.write_text(json.dumps(document_data(*services)))
    return file


@pytest.mark.kernel
def test_a_worker_with_no_more_than_its_units_capabilities_can_rehearse(tmp_path: Path, flavour: str) -> None:
    """Ports below 1024 need one more elsewhere; the unit is the guide's."""
    guide = (ROOT / "docs/guides/operating.md").read_text()
    unit = guide[guide.index("# lbadmin-worker.service") :]
    names = re.findall(r"CAP_(\w+)", unit[unit.index("CapabilityBoundingSet=") : unit.index("[Install]")])
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in names)])
    file = write(tmp_path, service_data("web", port=80))
    command = [sys.executable, "manage.py", "rehearse", "--document", str(file), "--flavour", flavour]
    done = subprocess.run(
        ["setpriv", "--bounding-set", kept, "--inh-caps", "-all", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exactly as promised; none lost" in done.stdout


@pytest.mark.kernel
def test_the_command_prints_shares_and_a_verdict(tmp_path: Path, flavour: str) -> None:
    out = StringIO()
    call_command(
        "rehearse", "--document", str(write(tmp_path, service_data())), "--flavour", flavour, stdout=out
    )
    text = out.getvalue()
    assert "ok     web (tcp 198.18.2.1:80 on eth0): 400 connections: 100/100/100/100" in text
    assert "10.0.0.6:80              promised  25.00 %  measured  25.00 %  (100 of 400)" in text
    assert "Passed: 1 service measured, 0 probed, 0 left out." in text


@pytest.mark.kernel
def test_the_command_ends_with_1_when_the_rehearsal_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = compile_document
    monkeypatch.setattr(
        "balancer.lab.rehearse.compile_document",
        lambda one, **options: spoil_rules(right(one, **options), wrong_share),
    )
    out = StringIO()
    file = write(tmp_path, service_data())
    with pytest.raises(SystemExit) as ended:
        call_command("rehearse", "--document", str(file), "--flavour", "nft", "--json", stdout=out)
    assert ended.value.code == 1
    data = json.loads(out.getvalue())
    assert data["passed"] is False
    assert data["services"][0]["endpoints"][0]["measured"] == 200


def test_the_command_ends_with_2_when_nothing_can_be_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CommandError, match=r"services\[0\]\.port") as bad:
        call_command("rehearse", "--document", str(write(tmp_path, service_data(port=0))))
    assert bad.value.returncode == 2
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CommandError, match="Run this with sudo") as forbidden:
        call_command("rehearse", "--document", str(write(tmp_path, service_data())))
    assert forbidden.value.returncode == 2
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match=r"A rehearsal needs ip, .*lacks") as lacking:
        call_command("rehearse", "--document", str(write(tmp_path, service_data())))
    assert lacking.value.returncode == 2
