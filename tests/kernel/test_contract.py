"""What every Kernel promises: the real one with both flavours and both drivers, and the one in memory."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.codec import digest_text
from balancer.domain.observation import Listener, Observation
from balancer.domain.types import Document, Family, Protocol
from balancer.kernel.base import Busy, DriverName, Flavour, Kernel, KernelError, Receipt, Rejected
from balancer.kernel.fake import FakeKernel
from balancer.kernel.flavour import read_snapshot
from balancer.kernel.node import NodeKernel
from balancer.ruleset.ir import Rule, Ruleset, TableName
from balancer.ruleset.parse import Snapshot, parse_save
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.targets import Jump, Masquerade
from tests.kernel.conftest import KINDS
from tests.kernel.machine import BACKENDS, document, load, ruleset, service

FOREIGN = """\
*filter
:MINE - [0:0]
-A INPUT -s 203.0.113.9/32 -j DROP
-A INPUT -j MINE
-A MINE -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
"""


class Subject:
    """A kernel under test, with the means to look into it and to meddle with it from outside."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        look: Callable[[], Snapshot],
        meddle: Callable[[str], None],
        stop_forwarding: Callable[[], object],
    ) -> None:
        self.kernel = kernel
        self.look = look
        self.meddle = meddle
        self.stop_forwarding = stop_forwarding

    def sync(self, *services: dict[str, Any]) -> Receipt:
        return self.kernel.sync(ruleset=ruleset(*services), document=document(*services))

    def rules(self, table: str, chain: str) -> tuple[str, ...]:
        return self.look().table(table).chains[chain]

    def own_chains(self) -> set[str]:
        return {
            f"{name} {chain}"
            for name, table in self.look().tables.items()
            for chain in table.chains
            if chain.startswith("LB-")
        }


REAL = [pytest.param(kind, id="-".join(kind), marks=pytest.mark.kernel) for kind in KINDS]


@pytest.fixture(params=["fake", *REAL])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "fake":
        return _fake()
    request.getfixturevalue("namespace")
    return _real(*request.param)


def _real(flavour: Flavour, driver: DriverName) -> Subject:
    return Subject(
        NodeKernel(flavour=flavour, driver=driver, wait_seconds=5),
        look=lambda: read_snapshot(flavour=flavour, family=Family.IPV4),
        meddle=lambda text: load(flavour, text),
        stop_forwarding=lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("0"),
    )


def _fake() -> Subject:
    kernel = FakeKernel()

    def meddle(text: str) -> None:
        for name, table in parse_save(text.replace("-I ", "-A ")).tables.items():
            chains = kernel.snapshot.table(name).chains
            for chain, rules in table.chains.items():
                first = f"-I {chain} " in text
                chains[chain] = rules + chains.get(chain, ()) if first else chains.get(chain, ()) + rules

    return Subject(
        kernel,
        look=lambda: deepcopy(kernel.snapshot),
        meddle=meddle,
        stop_forwarding=lambda: setattr(kernel, "forwarding", False),
    )


def test_a_first_sync_brings_the_whole_ruleset_in(subject: Subject) -> None:
    receipt = subject.sync(service())

    assert receipt.changed
    assert receipt.tables_committed == ("filter", "nat")
    assert "nat LB-S-web" in receipt.chains_written
    assert set(receipt.jumps_added) == {
        "filter INPUT LB-INPUT",
        "filter FORWARD LB-FORWARD",
        "nat PREROUTING LB-PREROUTING",
        "nat POSTROUTING LB-POSTROUTING",
    }
    assert receipt.ruleset_digest == digest_text(render_ruleset(ruleset(service())))
    assert subject.kernel.compare(ruleset=ruleset(service())).in_sync
    assert subject.rules("nat", "PREROUTING") == ("-j LB-PREROUTING",)


def test_forwarding_is_on_after_a_sync(subject: Subject) -> None:
    assert not subject.kernel.facts().forwarding
    subject.sync(service())
    assert subject.kernel.facts().forwarding


def test_a_second_sync_of_the_same_ruleset_commits_nothing(subject: Subject) -> None:
    subject.sync(service())
    receipt = subject.sync(service())
    assert (receipt.changed, receipt.tables_committed, receipt.chains_written) == (False, (), ())


def test_a_change_writes_the_chains_that_it_changes_and_no_other(subject: Subject) -> None:
    subject.sync(service("web"), service("api", port=81))
    receipt = subject.sync(service("web"), service("api", port=81, scheduler="random"))
    assert receipt.tables_committed == ("nat",)
    assert receipt.chains_written == ("nat LB-S-api",)
    assert receipt.chains_deleted == ()


def test_a_backend_that_takes_the_place_of_another_changes_the_service_and_these_two(
    subject: Subject,
) -> None:
    subject.sync(service("web"), service("api", port=81, backends=[{"address": "10.0.0.3"}]))
    receipt = subject.sync(service("web"), service("api", port=81, backends=[{"address": "10.0.0.9"}]))
    assert receipt.tables_committed == ("filter", "nat")
    nat, looked_for = (
        {chain for chain in receipt.chains_written if chain.startswith(table)} for table in ("nat", "filter")
    )
    assert nat == {"nat LB-S-api", "nat LB-S-api:10.0.0.9-81"}
    assert looked_for == {"filter LB-BACKENDS"}
    assert "nat LB-S-api:10.0.0.3-81" in receipt.chains_deleted


def test_a_service_that_goes_takes_its_chains_along(subject: Subject) -> None:
    subject.sync(service("web"), service("api", port=81))
    receipt = subject.sync(service("web"))
    assert "nat LB-S-api" in receipt.chains_deleted
    assert "nat LB-S-api" not in subject.own_chains()
    assert subject.kernel.compare(ruleset=ruleset(service("web"))).in_sync


def test_an_empty_document_leaves_the_base_chains(subject: Subject) -> None:
    subject.sync(service())
    receipt = subject.sync()
    assert receipt.tables_committed == ("nat", "filter"), "nothing may be redirected to what is not accepted"
    assert subject.own_chains() == {
        "filter LB-INPUT",
        "filter LB-FORWARD",
        "nat LB-PREROUTING",
        "nat LB-POSTROUTING",
    }


def test_removal_leaves_nothing_of_ours_and_all_of_others(subject: Subject) -> None:
    subject.meddle(FOREIGN)
    before = subject.look().table("filter").chains
    before = {chain: rules for chain, rules in before.items() if not chain.startswith("LB-")}
    subject.sync(service())

    receipt = subject.kernel.remove()

    assert receipt.tables_committed == ("nat", "filter")
    assert subject.own_chains() == set()
    assert subject.look().table("filter").chains == before
    assert subject.rules("nat", "PREROUTING") == ()
    assert not subject.kernel.remove().changed


def test_rules_of_others_are_left_as_they_were(subject: Subject) -> None:
    subject.meddle(FOREIGN)
    subject.sync(service())
    subject.sync(service(scheduler="random"))
    assert subject.rules("filter", "INPUT") == ("-j LB-INPUT", "-s 203.0.113.9/32 -j DROP", "-j MINE")
    assert subject.rules("filter", "MINE") == ("-p tcp -m tcp --dport 22 -j ACCEPT",)


def test_compare_names_what_is_missing_and_what_is_too_much(subject: Subject) -> None:
    subject.sync(service())
    subject.meddle("*nat\n-A LB-S-web -j RETURN\nCOMMIT\n")
    difference = subject.kernel.compare(ruleset=ruleset(service(), service("api", port=81)))
    assert not difference.in_sync
    assert "- nat: -A LB-S-web -j RETURN" in difference.lines
    assert "+ nat: -N LB-S-api" in difference.lines
    assert "+ nat: -A LB-S-api -g LB-S-api:10.0.0.6-81" in difference.lines


def test_forwarding_that_is_off_is_a_difference_which_a_sync_puts_right(subject: Subject) -> None:
    subject.sync(service())
    subject.stop_forwarding()
    difference = subject.kernel.compare(ruleset=ruleset(service()))
    assert (difference.in_sync, difference.lines) == (False, ("+ sysctl: net.ipv4.ip_forward=1",))

    assert not subject.sync(service()).changed
    assert subject.kernel.compare(ruleset=ruleset(service())).in_sync


def test_rules_of_others_before_our_jump_are_named_and_stay_first_unless_ours_are_to_be(
    subject: Subject,
) -> None:
    subject.sync(service())
    subject.meddle("*filter\n-I FORWARD -s 203.0.113.9/32 -j DROP\nCOMMIT\n")
    theirs, ours = "-s 203.0.113.9/32 -j DROP", "-j LB-FORWARD"
    difference = subject.kernel.compare(ruleset=ruleset(service()))
    assert (difference.in_sync, difference.before) == (True, (f"filter: -A FORWARD {theirs}",))
    assert not subject.sync(service()).changed
    assert subject.rules("filter", "FORWARD") == (theirs, ours)

    wanted = {"ruleset": ruleset(service()), "document": document(service()), "jumps_first": True}
    assert subject.kernel.sync(**wanted).tables_committed == ("filter",)
    assert subject.rules("filter", "FORWARD") == (ours, theirs)
    assert subject.kernel.compare(ruleset=ruleset(service())).before == ()
    assert not subject.kernel.sync(**wanted).changed


def test_a_list_of_networks_is_carried_and_compared_with_the_rules(subject: Subject) -> None:
    one, other = (service(access={"deny": [network]}) for network in ("203.0.113.0/24", "10.9.0.0/16"))
    assert "Made 1 list of networks." in subject.sync(one).steps
    assert subject.kernel.compare(ruleset=ruleset(one)).in_sync
    (wanted,) = ruleset(other).lists
    assert f"+ list {wanted}" in subject.kernel.compare(ruleset=ruleset(other)).lines
    subject.sync(other)
    assert subject.kernel.compare(ruleset=ruleset(other)).in_sync
    subject.kernel.remove()


def test_limits_of_connections_have_a_table_that_goes_with_them(subject: Subject) -> None:
    subject.sync(service(access={"connections_per_source": 5}))
    assert "mangle LB-C-web" in subject.own_chains()
    subject.sync(service())
    assert not any(chain.startswith("mangle") for chain in subject.own_chains())
    subject.sync(service(access={"connections_per_source": 5}))
    subject.kernel.remove()
    assert subject.own_chains() == set()


def test_compare_names_a_jump_that_is_missing(subject: Subject) -> None:
    difference = subject.kernel.compare(ruleset=ruleset())
    assert "+ nat: -A PREROUTING -j LB-PREROUTING" in difference.lines


def test_a_rule_that_somebody_put_into_our_chain_is_taken_out(subject: Subject) -> None:
    subject.sync(service())
    subject.meddle("*nat\n-I LB-S-web -s 203.0.113.1/32 -j ACCEPT\nCOMMIT\n")
    assert subject.sync(service()).chains_written == ("nat LB-S-web",)
    assert subject.kernel.compare(ruleset=ruleset(service())).in_sync


def test_a_chain_with_our_prefix_that_is_not_ours_any_more_is_deleted(subject: Subject) -> None:
    subject.meddle("*filter\n:LB-OLD - [0:0]\n-A LB-OLD -j ACCEPT\n-A OUTPUT -j LB-OLD\nCOMMIT\n")
    receipt = subject.sync(service())
    assert receipt.chains_deleted == ("filter LB-OLD",)
    assert subject.rules("filter", "OUTPUT") == ()


def test_one_jump_is_left_where_it_is(subject: Subject) -> None:
    subject.meddle(
        "*filter\n:LB-INPUT - [0:0]\n-A INPUT -s 203.0.113.9/32 -j DROP\n-A INPUT -j LB-INPUT\nCOMMIT\n"
    )
    receipt = subject.sync(service())
    assert "filter INPUT LB-INPUT" not in receipt.jumps_added
    assert subject.rules("filter", "INPUT") == ("-s 203.0.113.9/32 -j DROP", "-j LB-INPUT")


def test_of_several_equal_jumps_the_first_place_is_kept(subject: Subject) -> None:
    subject.meddle(
        "*filter\n:LB-INPUT - [0:0]\n-A INPUT -s 203.0.113.8/32 -j DROP\n-A INPUT -j LB-INPUT\n"
        "-A INPUT -s 203.0.113.9/32 -j DROP\n-A INPUT -j LB-INPUT\n-A INPUT -j LB-INPUT\nCOMMIT\n"
    )
    subject.sync(service())
    assert subject.rules("filter", "INPUT") == (
        "-s 203.0.113.8/32 -j DROP",
        "-j LB-INPUT",
        "-s 203.0.113.9/32 -j DROP",
    )


def _with(changed: Ruleset, table: TableName, chain: str, *rules: Rule) -> Ruleset:
    tables = tuple(
        replace(t, chains={**t.chains, chain: rules}) if t.name is table else t for t in changed.tables
    )
    return replace(changed, tables=tables)


IMPOSSIBLE = {
    "a jump to a chain that is not there": (Rule(target=Jump("LB-NOWHERE")),),
    "a chain that leads back to itself": (Rule(target=Jump("LB-PREROUTING")),),
    "masquerading where packets come in": (Rule(target=Masquerade()),),
}


@pytest.mark.parametrize("rules", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_the_kernel_refuses_changes_nothing(subject: Subject, rules: tuple[Rule, ...]) -> None:
    subject.sync(service())
    before = subject.look()
    # The filter table of this ruleset is fine and is written first, so it has to be put back.
    other = ruleset(service("other", port=81))
    impossible = _with(other, TableName.NAT, "LB-S-other", *rules)

    with pytest.raises(Rejected):
        subject.kernel.sync(ruleset=impossible, document=document(service("other", port=81)))

    assert subject.look() == before
    assert subject.kernel.compare(ruleset=ruleset(service())).in_sync


def test_a_rule_of_others_that_needs_a_chain_of_ours_is_named_and_nothing_changes(subject: Subject) -> None:
    subject.sync(service())
    subject.meddle("*filter\n:MINE - [0:0]\n-A MINE -p tcp -j LB-FORWARD\nCOMMIT\n")
    before = subject.look()
    with pytest.raises(Rejected, match="-A MINE -p tcp -j LB-FORWARD"):
        subject.kernel.remove()
    assert subject.look() == before


def test_facts_say_flavour_driver_and_reason_and_are_plain_data(subject: Subject) -> None:
    facts = subject.kernel.facts().to_data()
    assert facts["flavour"] in {"legacy", "nft"}
    assert facts["driver"] in {"python-iptables", "iptables-restore"}
    assert facts["driver_reason"]


def test_a_service_that_nobody_uses_has_no_load(subject: Subject) -> None:
    subject.sync(service(), service("dns", protocol="udp", port=53))
    services = document(service(), service("dns", protocol="udp", port=53)).services

    assert {name: dict(found) for name, found in subject.kernel.count_loads(services=services).items()} == {
        "web": {},
        "dns": {},
    }
    assert subject.kernel.count_loads(services=()) == {}
    assert {name: dict(found) for name, found in subject.kernel.count_open(services=services).items()} == {
        "web": {},
        "dns": {},
    }


def test_an_observation_tells_what_input_drops_and_leaves_everything_as_it_was(subject: Subject) -> None:
    subject.meddle(FOREIGN)
    subject.sync(service(backends=[]))
    before = subject.look()

    found = subject.kernel.observe()

    assert [rule.text for rule in found.inputs[0].rules if rule.drops] == [
        "-A INPUT -s 203.0.113.9/32 -j DROP"
    ]
    assert found.connections == found.listeners == ()
    assert Observation.from_data(json.loads(json.dumps(found.to_data()))) == found
    assert subject.look() == before


STICKY = service(persistence={"mode": "source"})
SETS = {f"LB-4.32-web:{address}-80" for address in BACKENDS}


def test_the_sets_that_rules_name_are_there_after_a_sync_and_no_others(subject: Subject) -> None:
    assert subject.kernel.count_clients() == {}
    first = subject.sync(STICKY)
    assert subject.kernel.count_clients() == dict.fromkeys(SETS, 0)
    assert "Made 4 sets of clients." in first.steps

    backends = [{"address": BACKENDS[0]}, {"address": BACKENDS[1], "state": "disabled"}]
    second = subject.sync(STICKY | {"backends": backends})

    assert set(subject.kernel.count_clients()) == {f"LB-4.32-web:{BACKENDS[0]}-80"}
    assert f"Let the clients of {', '.join(f'{a}:80' for a in BACKENDS[1:])} go." in second.steps
    assert not any("sets of clients" in step for step in second.steps)
    assert second.warnings == ()


def test_persistence_that_is_turned_off_and_removal_leave_no_sets(subject: Subject) -> None:
    for end in (lambda: subject.sync(service()), subject.kernel.remove):
        subject.sync(STICKY)
        receipt = end()
        assert subject.kernel.count_clients() == {}
        assert "Let the clients of 4 backends go." in receipt.steps


def test_a_write_that_fails_leaves_the_sets_as_they_were(subject: Subject) -> None:
    subject.sync(STICKY)
    other = STICKY | {"backends": [{"address": "10.0.0.9"}]}
    impossible = _with(ruleset(other), TableName.NAT, "LB-S-web", Rule(target=Jump("LB-NOWHERE")))

    with pytest.raises(Rejected):
        subject.kernel.sync(ruleset=impossible, document=document(other))

    assert set(subject.kernel.count_clients()) == SETS
    assert subject.kernel.compare(ruleset=ruleset(STICKY)).in_sync


def test_nobody_is_forgotten_where_no_client_is_kept(subject: Subject) -> None:
    subject.sync(STICKY)
    (web,) = document(STICKY).services
    assert subject.kernel.forget_clients(service=web) == 0
    assert subject.kernel.forget_clients(service=web, endpoint="10.0.0.99:80") == 0
    assert subject.kernel.forget_clients(service=document(service("api")).services[0]) == 0
    assert set(subject.kernel.count_clients()) == SETS


def test_the_fake_sees_what_it_is_given_to_see() -> None:
    kernel = FakeKernel()
    kernel.observed = Observation(listeners=(Listener(protocol=Protocol.TCP, address="*", port=22),))
    assert kernel.observe().listeners == kernel.observed.listeners


def test_the_fake_fails_when_told_to_and_then_works_again() -> None:
    kernel = FakeKernel()
    kernel.fail_next = Busy("somebody else")
    with pytest.raises(KernelError):
        kernel.sync(ruleset=ruleset(service()), document=Document())
    assert kernel.sync(ruleset=ruleset(service()), document=Document()).changed
