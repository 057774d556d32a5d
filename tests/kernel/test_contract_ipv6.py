"""What every Kernel promises about IPv6: the real one on both flavours, and the one in memory."""

from copy import deepcopy
from typing import Any

import pytest

from balancer.domain.types import Document, Family
from balancer.kernel.base import DriverName, Flavour, Kernel, Receipt
from balancer.kernel.fake import FakeKernel
from balancer.kernel.flavour import read_snapshot
from balancer.kernel.guardian import nothing_of_ours
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.marker import with_marker
from balancer.ruleset.parse import Snapshot, parse_save
from tests.kernel.ipv6 import service6
from tests.kernel.machine import document, load, service

IPV6 = Family.IPV6
IDLE = compile_document(Document(), family=IPV6)
BASE = {"filter LB-INPUT", "filter LB-FORWARD", "nat LB-PREROUTING", "nat LB-POSTROUTING"}


class Subject:
    """A kernel under test, asked as a worker asks it."""

    def __init__(self, kernel: Kernel, flavour: Flavour | None = None) -> None:
        self.kernel, self._flavour = kernel, flavour

    def sync(self, *services: dict[str, Any], family: Family = IPV6) -> Receipt:
        found = document(*services)
        return self.kernel.sync(ruleset=compile_document(found, family=family), document=found)

    def in_sync(self, *services: dict[str, Any], family: Family = IPV6) -> bool:
        return self.kernel.compare(ruleset=compile_document(document(*services), family=family)).in_sync

    def look(self, family: Family = IPV6) -> Snapshot:
        if self._flavour is not None:
            return read_snapshot(flavour=self._flavour, family=family)
        assert isinstance(self.kernel, FakeKernel)
        held = self.kernel.snapshot if family is Family.IPV4 else self.kernel.snapshot_ipv6
        assert held is not None
        return deepcopy(held)

    def meddle(self, text: str) -> None:
        if self._flavour is not None:
            load(self._flavour, text, family=IPV6)
            return
        assert isinstance(self.kernel, FakeKernel)
        assert self.kernel.snapshot_ipv6 is not None
        for name, table in parse_save(text).tables.items():
            self.kernel.snapshot_ipv6.table(name).chains.update(table.chains)

    def own_chains(self, family: Family = IPV6) -> set[str]:
        tables = self.look(family).tables.items()
        return {f"{name} {chain}" for name, t in tables for chain in t.chains if chain.startswith("LB-")}


REAL = [pytest.param(flavour, id=flavour.value, marks=pytest.mark.kernel) for flavour in Flavour]


@pytest.fixture(params=["fake", *REAL])
def subject(request: pytest.FixtureRequest) -> Subject:
    if request.param == "fake":
        return Subject(FakeKernel())
    request.getfixturevalue("namespace")
    kernel = NodeKernel(flavour=request.param, driver=DriverName.IPTABLES_RESTORE, wait_seconds=5)
    return Subject(kernel, request.param)


def test_each_family_has_its_own_tables(subject: Subject) -> None:
    both = service(), service6()
    for family in Family:
        assert subject.sync(*both, family=family).changed
    assert "nat LB-S-web6" in subject.own_chains()
    assert "nat LB-S-web" not in subject.own_chains()
    assert "nat LB-S-web6" not in subject.own_chains(Family.IPV4)
    assert all(subject.in_sync(*both, family=family) for family in Family)


def test_a_second_sync_commits_nothing(subject: Subject) -> None:
    subject.sync(service6())
    assert not subject.sync(service6()).changed


def test_idle_rules_write_nothing_where_nothing_of_ours_is_held(subject: Subject) -> None:
    before = subject.look()
    receipt = subject.sync(service())
    assert (receipt.changed, receipt.tables_committed) == (False, ())
    assert subject.in_sync(service())
    assert subject.look() == before
    assert not subject.kernel.facts().forwarding_ipv6


def test_services_that_are_missing_are_no_idle_matter(subject: Subject) -> None:
    difference = subject.kernel.compare(ruleset=compile_document(document(service6()), family=IPV6))
    assert "+ ipv6 nat: -N LB-S-web6" in difference.lines


def test_what_is_ours_becomes_the_base_chains_when_the_last_service_goes(subject: Subject) -> None:
    subject.sync(service6(), service())
    assert not subject.in_sync(service())

    receipt = subject.sync(service())

    assert receipt.tables_committed == ("nat", "filter")
    assert subject.own_chains() == BASE
    assert subject.in_sync(service())
    assert not subject.sync(service()).changed


def test_a_chain_of_ours_that_nobody_wants_is_drift_although_no_ipv6_is_asked_for(subject: Subject) -> None:
    subject.meddle("*nat\n:LB-S-old - [0:0]\n-A LB-S-old -j ACCEPT\nCOMMIT\n")
    assert not subject.in_sync(service())
    assert subject.sync(service()).chains_deleted == ("nat LB-S-old",)
    assert subject.own_chains() == BASE


def test_nothing_at_all_is_what_a_kernel_carries_that_was_started_anew(subject: Subject) -> None:
    nothing = nothing_of_ours(IPV6)
    assert subject.kernel.compare(ruleset=nothing).in_sync
    subject.sync(service6())
    assert not subject.kernel.compare(ruleset=nothing).in_sync


def test_a_marker_in_idle_rules_is_a_difference(subject: Subject) -> None:
    marked = with_marker(IDLE, token="12345678")
    assert not subject.kernel.compare(ruleset=marked).in_sync


def test_forwarding_is_turned_on_for_services_only(subject: Subject) -> None:
    subject.sync(service6(), service())
    assert subject.kernel.facts().forwarding_ipv6 is True


def test_permission_is_asked_of_idle_rules_too(subject: Subject) -> None:
    def refuse() -> None:
        raise PermissionError

    with pytest.raises(PermissionError):
        subject.kernel.sync(ruleset=IDLE, document=Document(), permit=refuse)


def test_removal_takes_both_families_out(subject: Subject) -> None:
    for family in Family:
        subject.sync(service(), service6(), family=family)
    assert subject.kernel.remove().tables_committed == ("nat", "filter", "ipv6 nat", "ipv6 filter")
    assert subject.own_chains() == subject.own_chains(Family.IPV4) == set()
    assert not subject.kernel.remove().changed


def test_an_observation_tells_what_input_drops_over_ipv6(subject: Subject) -> None:
    subject.meddle("*filter\n-A INPUT -s 2001:db8::9/128 -j DROP\nCOMMIT\n")
    inputs = [path for path in subject.kernel.observe().inputs if path.family is IPV6]
    assert [rule.text for rule in inputs[0].rules] == ["-A INPUT -s 2001:db8::9/128 -j DROP"]
