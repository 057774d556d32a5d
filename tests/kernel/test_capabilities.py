"""A document that needs what the kernel does not have is refused whole, with a sentence that helps."""

import pytest

from balancer.domain.types import Family
from balancer.kernel import capabilities
from balancer.kernel.base import DriverName, Flavour, Rejected
from balancer.kernel.capabilities import Missing, Need, find_missing, need_of_rule, needs_of, recall_missing
from balancer.kernel.node import NodeKernel
from balancer.kernel.selftest import EVERY_FORM
from balancer.kernel.selftest_child import without
from balancer.kernel.tools import Completed
from balancer.ruleset.compile import compile_document
from tests.kernel.ipv6 import service6
from tests.kernel.machine import Namespace, document, ruleset, run, save, service

NEEDY = {
    Need.SCTP: (service("sig", protocol="sctp"), "SCTP for iptables", "xt_sctp"),
    Need.CLIENT_SETS: (service("shop", persistence={"mode": "source"}), "sets of clients", "ipset"),
    Need.SOURCE_HASH: (service("cache", scheduler="source-hash"), "division of clients", "xt_cluster"),
    Need.NETWORK_SETS: (service("gate", access={"deny": ["192.0.2.0/24"]}), "lists of networks", "hash_net"),
    Need.NEW_RATE: (service("api", access={"new_per_second_per_source": 5}), "rates by source", "hashlimit"),
    Need.CONNECTION_LIMIT: (
        service("db", access={"connections_per_backend": 5}),
        "counts of connections",
        "xt_connlimit",
    ),
    Need.LOG: (service("seen", access={"log_refused": True}), "log for iptables", "xt_LOG"),
    Need.IPV6_NAT: (service6("web6"), "NAT for IPv6", "nat"),
}


@pytest.mark.parametrize("need", Need)
def test_what_the_kernel_lacks_is_refused_by_name_before_anything_is_written(
    namespace: Namespace, flavour: Flavour, need: Need
) -> None:
    needy, lacks, module = NEEDY[need]
    kernel = NodeKernel(
        flavour=flavour,
        driver=DriverName.IPTABLES_RESTORE,
        find_missing=lambda flavour, family: {need: "no such thing"},
    )
    kernel.sync(ruleset=ruleset(service()), document=document(service()))
    family = Family.IPV6 if need is Need.IPV6_NAT else Family.IPV4
    before = [save(flavour, family=each) for each in Family]
    wanted = document(service(), needy | {"interface": "eth1"})

    with pytest.raises(Rejected) as refused:
        kernel.sync(ruleset=compile_document(wanted, family=family), document=wanted)

    sentence = str(refused.value)
    assert sentence.startswith(f"This node cannot carry {needy['name']}: its kernel has no {lacks}")
    assert module in sentence
    assert "said: no such thing. Install or load that on the node, or " in sentence
    assert sentence.endswith("Nothing was changed.")
    assert [save(flavour, family=each) for each in Family] == before
    assert "LB-" not in run("ipset", "list", "-n")


def test_nobody_is_asked_where_nothing_is_needed(namespace: Namespace, flavour: Flavour) -> None:
    def ask(flavour: Flavour, family: Family) -> Missing:
        raise AssertionError("asked")

    kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE, find_missing=ask)
    off = NEEDY[Need.SCTP][0] | {"enabled": False}
    for services in ([service()], [service(), off], [service(), service6()]):
        kernel.sync(ruleset=ruleset(*services), document=document(*services))


def test_what_is_not_needed_may_be_missing(namespace: Namespace, flavour: Flavour) -> None:
    needy = NEEDY[Need.SOURCE_HASH][0]
    kernel = NodeKernel(
        flavour=flavour,
        driver=DriverName.IPTABLES_RESTORE,
        find_missing=lambda flavour, family: {Need.SCTP: "no such thing"},
    )
    assert kernel.sync(ruleset=ruleset(needy), document=document(needy)).changed


@pytest.mark.parametrize("family", Family)
def test_this_machine_has_it_all_and_trying_that_leaves_nothing(
    namespace: Namespace, flavour: Flavour, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "_found", {})
    assert find_missing(flavour, family) == {}
    assert "LB-" not in save(flavour, family=family)
    assert run("ipset", "list", "-n") == ""


def test_what_is_missing_is_looked_for_again_and_what_is_there_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(['{"missing": {"sctp": "no"}}', '{"missing": {}}'])
    child = lambda *_, **__: Completed(code=0, output=next(answers), errors="")  # noqa: E731
    monkeypatch.setattr(capabilities, "_found", {})
    monkeypatch.setattr(capabilities, "run_child", child)
    place = Flavour.NFT, Family.IPV4
    assert recall_missing(*place) == {}
    assert find_missing(*place) == recall_missing(*place) == {Need.SCTP: "no"}
    assert find_missing(*place) == find_missing(*place) == {}


def test_what_cannot_be_tried_does_not_count_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_found", {})
    monkeypatch.setattr(
        capabilities, "run_child", lambda *_, **__: Completed(code=1, output="", errors="killed")
    )
    assert find_missing(Flavour.LEGACY, Family.IPV4) == {}


def test_the_self_test_leaves_out_what_no_driver_could_carry() -> None:
    less = without(EVERY_FORM, {Need.SCTP: "", Need.CLIENT_SETS: ""})
    left = {need_of_rule(rule) for table in less.tables for rules in table.chains.values() for rule in rules}
    assert left == {None, *Need} - {Need.SCTP, Need.CLIENT_SETS, Need.IPV6_NAT}
    assert less.lists == EVERY_FORM.lists
    assert without(EVERY_FORM, {Need.NETWORK_SETS: ""}).lists == {}
    assert without(EVERY_FORM, {}) == EVERY_FORM


def test_a_service_may_need_several_things() -> None:
    (one,) = document(
        service6(
            "all",
            protocol="sctp",
            scheduler="source-hash",
            persistence={"mode": "source"},
            access={
                "allow": ["2001:db8::/32"],
                "new_per_second_per_source": 5,
                "connections_per_source": 5,
                "log_refused": True,
            },
        )
    ).services
    assert needs_of(one) == tuple(Need)
    (plain,) = document(service()).services
    assert needs_of(plain) == ()
