"""The sets of clients in the kernel: who made them, who uses them, and what becomes of them in a failure."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.codec import dump_document
from balancer.domain.types import Document
from balancer.kernel.base import Busy, DriverName, Flavour, Receipt, Rejected
from balancer.kernel.client_sets import client_sets_for, read_sets
from balancer.kernel.node import NodeKernel
from balancer.kernel.set_sizes import buckets_of
from balancer.ruleset.compile import compile_document
from balancer.ruleset.parse import parse_ruleset
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.sets import endpoints_of_sets, members_of_groups, sets_of
from tests.kernel.guards import Machine, candidate, confirmed
from tests.kernel.machine import BACKENDS, Namespace, document, load, ruleset, run, save, service
from tests.stopwatch import Stopwatch

STICKY = service(persistence={"mode": "source"})
FIRST = f"LB-4.32-web:{BACKENDS[0]}-80"
LAST = f"LB-4.32-web:{BACKENDS[-1]}-80"
WITHOUT_LAST = STICKY | {"backends": [{"address": address} for address in BACKENDS[:-1]]}
MANY = [{"address": f"10.0.0.{last}"} for last in range(3, 43)]


def sync(kernel: NodeKernel, *services: dict[str, Any]) -> Receipt:
    found = document(*services)
    (family,) = {one.family for one in found.services}
    return kernel.sync(ruleset=compile_document(found, family=family), document=found)


def put(name: str, *clients: str) -> None:
    run("ipset", "restore", "-exist", text="".join(f"add {name} {client}\n" for client in clients))


def names() -> set[str]:
    return {one.name for one in read_sets()}


@pytest.fixture
def one(namespace: Namespace) -> NodeKernel:
    """For what does not depend on flavour or driver."""
    return NodeKernel(flavour=Flavour.NFT, driver=DriverName.IPTABLES_RESTORE, wait_seconds=5)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ("hash:net", "of type hash:net"),
        ("hash:ip family inet6 timeout 9", "of family inet6"),
        ("hash:ip timeout 9 netmask 24", "keeps 24 bits of an address, not 32"),
        ("hash:ip", "for ever"),
        ("list:set", "of type list:set"),
    ],
)
def test_a_set_of_our_name_that_is_another_one_is_refused_before_anything_is_written(
    one: NodeKernel, made: str, why: str
) -> None:
    run("ipset", "create", LAST, *made.split())
    before = save(Flavour.NFT)

    with pytest.raises(Rejected, match=f"{LAST}.*{why}.*Nothing was changed"):
        sync(one, STICKY)

    assert save(Flavour.NFT) == before
    assert names() == {LAST}
    run("ipset", "destroy", LAST)
    assert sync(one, STICKY).changed


def test_a_set_of_our_kind_that_is_there_already_is_used_with_the_clients_in_it(one: NodeKernel) -> None:
    run("ipset", "create", FIRST, "hash:ip", "timeout", "60")
    put(FIRST, "192.0.2.7")
    assert "Made 3 sets of clients." in sync(one, STICKY).steps
    assert one.count_clients()[FIRST] == 1


def test_a_set_that_rules_of_others_use_is_emptied_and_named(kernel: NodeKernel, kind: Any) -> None:
    sync(kernel, STICKY)
    put(LAST, "192.0.2.7")
    load(kind[0], f"*filter\n-A INPUT -m set --match-set {LAST} src -j ACCEPT\nCOMMIT\n")

    receipt = sync(kernel, WITHOUT_LAST)

    assert [warning for warning in receipt.warnings if LAST in warning]
    assert kernel.count_clients()[LAST] == 0
    assert kernel.compare(ruleset=ruleset(WITHOUT_LAST)).in_sync
    watch = Stopwatch()
    assert not sync(kernel, WITHOUT_LAST).changed
    assert watch.own < 1.5, "nothing was committed, so nothing is waited for"

    run(f"iptables-{kind[0]}", "-w", "5", "-F", "INPUT")
    assert sync(kernel, WITHOUT_LAST).warnings == ()
    assert LAST not in names()


def test_clients_of_a_disabled_backend_go_at_once_and_those_of_a_draining_one_stay(
    kernel: NodeKernel,
) -> None:
    sync(kernel, STICKY)
    put(FIRST, "192.0.2.7")
    put(LAST, "192.0.2.8")
    first, *rest, last = STICKY["backends"]

    sync(kernel, STICKY | {"backends": [first | {"state": "draining"}, *rest, last | {"state": "disabled"}]})

    assert kernel.count_clients()[FIRST] == 1
    assert LAST not in names()
    sync(kernel, STICKY)
    assert kernel.count_clients()[LAST] == 0


def test_other_settings_of_a_service_leave_its_clients_alone(kernel: NodeKernel) -> None:
    sync(kernel, STICKY)
    put(FIRST, "192.0.2.7", "192.0.2.9")
    receipt = sync(kernel, STICKY | {"scheduler": "random", "persistence": {"mode": "source", "timeout": 60}})
    assert receipt.changed
    assert kernel.count_clients()[FIRST] == 2


def test_sets_of_the_other_family_and_of_others_are_left_alone(one: NodeKernel) -> None:
    run("ipset", "create", "LB-6.64-web:old", "hash:ip", "family", "inet6", "timeout", "9", "netmask", "64")
    run("ipset", "create", "LB-mine", "hash:ip")
    run("ipset", "create", "theirs", "hash:net")
    sync(one, STICKY)
    sync(one, service())
    assert set(run("ipset", "list", "-n").split()) == {"LB-6.64-web:old", "LB-mine", "theirs"}


def test_ipv6_sets_come_and_go_with_their_services(one: NodeKernel) -> None:
    sticky = STICKY | {
        "backends": [{"address": "fd00::3"}, {"address": "fd00::4"}],
        "persistence": {"mode": "source", "prefix": 64},
    }
    sync(one, STICKY)
    sync(one, sticky)
    put("LB-6.64-web:fd00::3-80", "2001:db8::1", "2001:db8::2")
    assert one.count_clients()["LB-6.64-web:fd00::3-80"] == 1
    assert FIRST in names()

    receipt = sync(one, sticky | {"backends": [{"address": "fd00::4"}]})

    assert "Let the clients of [fd00::3]:80 go." in receipt.steps


def test_where_rules_cannot_come_in_the_sets_made_for_them_go_again(one: NodeKernel) -> None:
    sync(one, STICKY)
    other = STICKY | {"backends": [{"address": "10.0.0.9"}]}

    with pytest.raises(Busy):
        _fail_inside(other)

    assert names() == {f"LB-4.32-web:{address}-80" for address in BACKENDS}


def _fail_inside(other: dict[str, Any]) -> None:
    with client_sets_for(ruleset(other), document=document(other)):
        assert "LB-4.32-web:10.0.0.9-80" in names()
        raise Busy("somebody else")


def test_half_of_the_sets_is_none(one: NodeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool gives up in the middle of its work; nothing of it is left, and the next apply works."""
    path = os.environ["PATH"]
    broken = tmp_path / "ipset"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = restore ] || exec /usr/sbin/ipset "$@"\n'
        "head -n 2 | /usr/sbin/ipset restore -exist\necho out of memory >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{path}")
    with pytest.raises(Rejected, match="out of memory"):
        sync(one, STICKY)
    assert "LB-" not in save(Flavour.NFT)
    monkeypatch.setenv("PATH", path)
    assert sync(one, STICKY).changed
    assert len(names()) == 4


def test_without_ipset_only_persistence_is_refused(one: NodeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("balancer.kernel.client_sets.find_tool", lambda name: None)
        assert sync(one, service()).warnings == ()
        assert one.count_clients() == {}
        with pytest.raises(Rejected, match="Install the package ipset"):
            sync(one, STICKY)
        assert one.compare(ruleset=ruleset(service())).in_sync
        one.remove()
    assert sync(one, STICKY).changed


def test_an_ipset_that_does_not_work_hinders_only_persistence(
    one: NodeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "ipset"
    broken.write_text("#!/bin/sh\necho no such protocol >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    receipt = sync(one, service())
    assert receipt.changed
    assert "no such protocol" in receipt.warnings[0]
    with pytest.raises(Rejected, match="no such protocol"):
        sync(one, STICKY)
    assert one.compare(ruleset=ruleset(service())).in_sync


def test_the_clients_of_a_service_or_of_one_backend_are_forgotten(one: NodeKernel) -> None:
    sync(one, STICKY, service("api", port=81, persistence={"mode": "source"}))
    put(FIRST, "192.0.2.7", "192.0.2.8")
    put(LAST, "192.0.2.9")
    put(f"LB-4.32-api:{BACKENDS[0]}-81", "192.0.2.7")
    (web,) = document(STICKY).services

    assert one.forget_clients(service=web, endpoint=f"{BACKENDS[-1]}:80") == 1
    assert one.count_clients()[FIRST] == 2
    assert one.forget_clients(service=web) == 2

    assert {name for name, count in one.count_clients().items() if count} == {f"LB-4.32-api:{BACKENDS[0]}-81"}


def test_groups_that_become_needed_know_the_clients_that_backends_have(one: NodeKernel) -> None:
    sync(one, STICKY | {"backends": MANY[:32]})
    put("LB-4.32-web:10.0.0.3-80", "192.0.2.7")
    with client_sets_for(
        ruleset(STICKY | {"backends": MANY}), document=document(STICKY | {"backends": MANY})
    ) as sets:
        put("LB-4.32-web:10.0.0.4-80", "192.0.2.8")  # comes while the old rules are still in
    assert sets.warnings == ()

    sync(one, STICKY | {"backends": MANY})

    groups = [name for name in names() if "-80" not in name]
    held = sum(one.count_clients()[name] for name in groups)
    assert held == 2
    (web,) = document(STICKY | {"backends": MANY}).services
    assert one.forget_clients(service=web) == 4, (
        "an entry in a backend's set and one in its group's, for each"
    )


def test_a_set_that_became_crowded_gets_more_room_at_the_next_apply(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName]
) -> None:
    run("ipset", "create", FIRST, "hash:ip", "hashsize", "64", "timeout", "60", "maxelem", "65536")
    sync(kernel, STICKY)
    put(FIRST, *(f"192.0.2.{last}" for last in range(200)))
    rules = save(kind[0])

    receipt = sync(kernel, STICKY)

    assert "Made more room in 1 set of clients." in receipt.steps
    assert (receipt.changed, receipt.warnings) == (False, ())
    (grown,) = [one for one in read_sets() if one.name == FIRST]
    assert (grown.entries, grown.references > 0) == (200, True)
    assert "hashsize 256 " in grown.header
    assert len(names()) == 4
    assert save(kind[0]) == rules
    assert not any("room" in step for step in sync(kernel, STICKY).steps)


def test_a_set_that_became_crowded_gets_more_room_without_an_apply_as_well(one: NodeKernel) -> None:
    assert one.make_room() == 0
    run("ipset", "create", FIRST, "hash:ip", "hashsize", "64", "timeout", "60", "maxelem", "65536")
    sync(one, STICKY)
    run("ipset", "create", "LB-4.32-grow:spare", "hash:ip", "timeout", "60")  # left by a crash
    put(FIRST, *(f"192.0.2.{last}" for last in range(200)))

    assert one.make_room() == 1

    (grown,) = [found for found in read_sets() if found.name == FIRST]
    assert (grown.entries, grown.references > 0) == (200, True)
    assert "hashsize 256 " in grown.header
    assert len(names()) == 4
    assert one.make_room() == 0


def test_room_is_shared_by_the_sets_of_a_ruleset_and_a_group_has_that_of_its_backends() -> None:
    few = buckets_of(ruleset(STICKY))
    assert set(few.values()) == {65_536}
    many = ruleset(
        STICKY | {"backends": [{"address": f"10.0.{n // 200}.{n % 200 + 2}"} for n in range(1024)]}
    )
    rooms, groups = buckets_of(many), members_of_groups(many)
    assert {rooms[name] for name in rooms if name not in groups} == {2048}
    for name, members in groups.items():
        assert len(members) * 2048 < 2 * rooms[name] <= 2 * len(members) * 2048
    assert buckets_of(ruleset(service())) == {}


def test_the_guard_makes_missing_sets_anew_on_its_way_back(one: NodeKernel, tmp_path: Path) -> None:
    old = document(STICKY)
    text = render_ruleset(compile_document(old))
    known = replace(confirmed(1, 80), document=dump_document(old), rulesets={"ipv4": text})
    machine = Machine(path=tmp_path / "guard", kernel=one)
    one.sync(ruleset=parse_ruleset(text, family=compile_document(old).family), document=old)
    machine.start()
    machine.worker_side().arm(confirmed=known, candidate=candidate(2), seconds=30)
    sync(one, service("other"))
    assert names() == set()

    machine.advance(30)

    assert one.compare(ruleset=compile_document(old)).in_sync
    assert names() == {f"LB-4.32-web:{address}-80" for address in BACKENDS}
    machine.kill()


def test_a_thousand_sets_are_made_and_dropped_in_no_time(one: NodeKernel) -> None:
    services = [
        service(
            f"s{port}",
            port=port,
            persistence={"mode": "source"},
            backends=[{"address": f"10.0.1.{last}"} for last in range(1, 26)],
        )
        for port in range(1, 41)
    ]
    found = document(*services)
    rules, took = compile_document(found), []
    for wanted in (rules, compile_document(Document())):
        watch = Stopwatch()
        with client_sets_for(wanted, document=found) as sets:
            sets.committed = False
        took.append(watch.own)
    assert sets.steps == ("Let the clients of 1000 backends go.",)
    assert names() == set()
    assert max(took) < 5, took


def test_a_set_is_told_by_the_endpoint_of_its_backend_where_that_can_be_known() -> None:
    long = service("a-service-with-a-long-name", port=81, persistence={"mode": "source"})
    found = document(STICKY, long)
    every = [one.name for one in sets_of(compile_document(found))]

    told = set(endpoints_of_sets(every, found).values())
    assert told == {f"{address}:{port}" for address in BACKENDS for port in (80, 81)}
    assert set(endpoints_of_sets(every, Document())) == {name for name in every if ":10." in name}
    assert endpoints_of_sets(["LB-6.128-web:fd00::3-443"], Document()) == {
        "LB-6.128-web:fd00::3-443": "[fd00::3]:443"
    }
    assert endpoints_of_sets(["LB-4.32-web:7"], Document()) == {}, "a group"
