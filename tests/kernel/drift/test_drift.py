"""Others meddle with our rules on a real kernel: the node sees it within 30 seconds, puts ours back, says so,
and leaves every rule of others as it is. The kinds of tampering are in `tampering`.
"""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from balancer.kernel.node import NodeKernel
from balancer.models import AuditEvent, DriftEvent, Job
from balancer.workflow.drift import put_ours_back
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.kernel.drift.tampering import FORWARDING, HARMLESS, TAMPERING, Host, destroy_sets
from tests.kernel.machine import Namespace, foreign_part, load, run, save
from tests.kernel.native_tables import FORWARD_DROPS
from tests.workflow.ticking import Worker

FOREIGN = (Path(__file__).parent.parent / "foreign.txt").read_text()
SEEN_WITHIN = 30
FACTS_EVERY = 61
OURS = re.compile(r"-A (LB-\S+ .*|[A-Z]+ -j LB-\S+)")
BLOCK = ("-s", "203.0.113.9/32", "-j", "DROP")


@pytest.fixture
def worker(site: Site, namespace: Namespace, flavour: Flavour) -> Worker:
    """Of a node with rules of others, which carries a service with remembered clients and one over IPv6."""
    load(flavour, FOREIGN, counters=True)
    site.cluster.nodes.exclude(name="lb1").delete()
    site.kernels = {"lb1": NodeKernel(flavour=flavour, wait_seconds=5)}
    worker = Worker(site)
    site.deploy(
        service_data("web", persistence={"mode": "source"}),
        service_data("web6", backends=[backend_data("2001:db8::3"), backend_data("2001:db8::4")]),
    )
    worker.tick()
    assert worker.node.in_sync
    return worker


def test_every_kind_of_tampering_is_seen_within_30_seconds_put_right_and_on_record(
    worker: Worker, flavour: Flavour
) -> None:
    host, whole = Host(flavour), ours(flavour)
    wrong = {}
    for kind, tamper in TAMPERING.items():
        worker.tick(after=7200)  # so that each is the first for a while
        tamper(host)
        others, last = foreign(flavour), DriftEvent.objects.order_by("-pk").first()
        seen = seconds_until_seen(worker, after=last.pk if last else 0)
        problems = [
            *(["it was not seen"] if seen is None else []),
            *(["rules of others changed"] if foreign(flavour) != others else []),
            *what_differs(whole, ours(flavour)),
            *(["forwarding is off"] if FORWARDING.read_text().strip() != "1" else []),
            *what_is_missing_on_record(),
        ]
        if problems:
            wrong[kind] = problems
    assert not wrong, wrong


def test_what_is_no_drift_is_left_alone(worker: Worker, flavour: Flavour) -> None:
    for kind, change in HARMLESS.items():
        change(Host(flavour))
        before = save(flavour, counters=True)
        worker.tick(after=SEEN_WITHIN)
        assert (kind, worker.node.in_sync) == (kind, True)
        assert (kind, save(flavour, counters=True)) == (kind, before)
    assert not DriftEvent.objects.exists()


def test_a_drop_before_our_jump_is_named_and_left_until_an_operator_says_otherwise(
    worker: Worker, flavour: Flavour, site: Site
) -> None:
    host = Host(flavour)
    host.iptables("-I", "FORWARD", *BLOCK, table="filter")
    before = save(flavour, counters=True)

    assert seconds_until_seen(worker, after=0) is not None
    worker.tick(after=SEEN_WITHIN)
    event = DriftEvent.objects.get()
    assert (event.kind, event.lines) == ("order", [f"filter: -A FORWARD {' '.join(BLOCK)}"])
    assert save(flavour, counters=True) == before

    put_ours_back(actor=site.operator, node=worker.node, event_id=event.pk)
    worker.tick()
    assert host.rules("FORWARD", table="filter")[:2] == [["-j", "LB-FORWARD"], list(BLOCK)]
    assert foreign(flavour) == without_policy_counters(foreign_part(before))
    worker.tick(after=SEEN_WITHIN)
    assert DriftEvent.objects.get().how == "asked"


def test_a_chain_of_nft_that_drops_is_named_with_its_time_until_it_goes(
    worker: Worker, flavour: Flavour
) -> None:
    before = save(flavour, counters=True)
    run("nft", "-f", "-", text=FORWARD_DROPS)
    held = run("nft", "list", "table", "inet", "filter")
    assert seconds_until_seen(worker, after=0) is not None
    worker.tick(after=SEEN_WITHIN)
    event = DriftEvent.objects.get()
    assert (event.kind, event.lines) == ("order", ["nft inet filter forward: policy drop"])
    assert [check["id"] for check in worker.node.facts["checks"] if check["id"].startswith("nft-")] == [
        "nft-drops"
    ]
    assert save(flavour, counters=True) == before
    assert run("nft", "list", "table", "inet", "filter") == held

    run("nft", "delete", "table", "inet", "filter")
    worker.tick(after=SEEN_WITHIN)
    assert DriftEvent.objects.get().how == "gone"


def test_settings_of_interfaces_that_keep_packets_away_are_named_within_30_seconds(
    worker: Worker, flavour: Flavour
) -> None:
    run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0")
    worker.tick(after=FACTS_EVERY)
    for setting, id_ in (
        ("forwarding=0", "forwarding-off"),
        ("route_localnet=1", "route-localnet"),
        ("rp_filter=1", "rp-filter-strict"),
    ):
        assert id_ not in ids_of(worker)
        name, value = setting.split("=")
        Path("/proc/sys/net/ipv4/conf/eth0", name).write_text(value)
        for _ in range(0, SEEN_WITHIN, 5):
            worker.tick(after=5)
        assert id_ in ids_of(worker)


def ids_of(worker: Worker) -> set[str]:
    return {check["id"] for check in worker.node.facts["checks"]}


def test_the_sets_of_clients_are_there_again(worker: Worker, flavour: Flavour) -> None:
    names = run("ipset", "list", "-n")
    destroy_sets(Host(flavour))
    assert run("ipset", "list", "-n") == ""
    worker.tick(after=SEEN_WITHIN)
    assert sorted(run("ipset", "list", "-n").split()) == sorted(names.split())


def seconds_until_seen(worker: Worker, *, after: int) -> int | None:
    """Ticks, until there is an event that was not there before, for as long as may pass."""
    for seconds in range(5, SEEN_WITHIN + 1, 5):
        worker.tick(after=5)
        if DriftEvent.objects.filter(pk__gt=after).exists():
            return seconds
    return None


def what_is_missing_on_record() -> list[str]:
    event = DriftEvent.objects.order_by("-pk").first()
    if event is None:
        return ["there is no event"]
    told = AuditEvent.objects.filter(action__in=("node.drifted", "node.mended"))
    told = told.filter(facts__seen_at=event.seen_at.isoformat())
    job = Job.objects.filter(reason="converge").order_by("-queued_at").first()
    return [
        *([] if event.how == "put-back" else [f"it ended as {event.how or 'still open'}"]),
        *([] if event.lines and told.count() == 2 else ["not on record twice"]),
        *(
            []
            if {tuple(one.facts["lines"]) for one in told} == {tuple(event.lines[:20])}
            else ["other lines"]
        ),
        *([] if job == event.job and job and job.cause.startswith("Drift: ") else ["no job says drift"]),
        *([] if event.ended_at and event.ended_at - event.seen_at < timedelta(seconds=1) else ["late"]),
    ]


def foreign(flavour: Flavour) -> str:
    return without_policy_counters(foreign_part(save(flavour, counters=True)))


def ours(flavour: Flavour) -> dict[str, list[str]]:
    """Chain -> its rules of ours in their order, of both families, whatever the turn of a round robin."""
    found: dict[str, list[str]] = {}
    for family in Family:
        table = ""
        for line in save(flavour, family=family).splitlines():
            table = line if line.startswith("*") else table
            if OURS.fullmatch(line):
                rules = found.setdefault(f"{family} {table} {line.split()[1]}", [])
                rules.append(re.sub(r" --packet \d+", "", line))
    return found


def what_differs(before: dict[str, list[str]], after: dict[str, list[str]]) -> list[str]:
    return [
        f"{chain}: {before.get(chain)} became {after.get(chain)}"
        for chain in sorted({*before, *after})
        if before.get(chain) != after.get(chain)
    ]


def without_policy_counters(text: str) -> str:
    """Any commit to a legacy table sets them to zero, whoever makes it."""
    return re.sub(r"^(:[A-Z]+ (?:ACCEPT|DROP)) \[.*\]$", r"\1", text, flags=re.M)
