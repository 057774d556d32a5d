"""IPv6 services on their way through the workflow: revisions, nodes, guards, evidence."""

import json
from dataclasses import replace
from typing import Any

import pytest

from balancer.domain.codec import digest_text, dump_document
from balancer.domain.evidence_checks import verify_evidence
from balancer.domain.lifecycle import JobState
from balancer.kernel.fake import FakeKernel
from balancer.models import Cluster, Deployment, DriftEvent, Evidence, Job, Node, Rehearsal, Revision
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from balancer.workflow.drills import start_drill
from balancer.workflow.queries.rulesets import diff_tables
from balancer.workflow.revisions import compile_rulesets, live_revision, render_rulesets, why_not_genuine
from balancer.workflow.submissions import submit_change
from tests.cast import Site, own_rules
from tests.documents import backend_data, document, service_data
from tests.workflow.rehearsing import make_stage, spoil_shares, states
from tests.workflow.ticking import Worker

BASE = {
    "filter": {"LB-FORWARD", "LB-INPUT"},
    "nat": {"LB-POSTROUTING", "LB-PREROUTING"},
}
NOTHING: dict[str, set[str]] = {"filter": set(), "nat": set()}


def service6_data(name: str = "web6", **fields: Any) -> dict[str, Any]:
    backends = [backend_data(f"2001:db8::{last}") for last in range(3, 7)]
    return service_data(name, **({"port": 8000, "backends": backends} | fields))


def ipv6_chains(kernel: FakeKernel) -> dict[str, set[str]]:
    assert kernel.snapshot_ipv6 is not None
    return {
        table: set(chains)
        for table, chains in own_rules(kernel.snapshot_ipv6).items()
        if chains or table in BASE
    }


def receipts(revision: Revision) -> list[set[str]]:
    return [set(job.receipt) for job in Job.objects.filter(revision=revision, deployment__isnull=False)]


def faults_of(revision: Revision) -> list[str]:
    deployment = Deployment.objects.filter(revision=revision).latest("pk")
    data = json.loads(Evidence.objects.get(deployment=deployment).text)
    return [finding.text for finding in verify_evidence(data) if not finding.passed]


# Revisions


def test_no_digest_of_a_revision_without_ipv6_services_moves(site: Site) -> None:
    revision = site.deploy(service_data("web"))
    one = document(service_data("web"))
    text, rules = dump_document(one), render_ruleset(compile_document(one))
    old = digest_text(json.dumps({"document": text, "rulesets": {"ipv4": rules}}, sort_keys=True))
    assert (revision.digest, revision.rulesets) == (old, {"ipv4": rules})
    empty = Revision.objects.get(number=0)
    assert set(empty.rulesets) == {"ipv4"}


def test_a_revision_keeps_ipv6_rules_while_it_has_an_ipv6_service_enabled_or_not(site: Site) -> None:
    on = site.deploy(service_data("web"), service6_data())
    assert set(on.rulesets) == {"ipv4", "ipv6"}
    assert "LB-S-web6" in on.rulesets["ipv6"]
    off = site.deploy(service6_data(enabled=False))
    assert set(off.rulesets) == {"ipv4", "ipv6"}
    assert "LB-S-web6" not in off.rulesets["ipv6"]
    assert why_not_genuine(on) is None
    assert why_not_genuine(off) is None


def test_the_difference_names_tables_of_ipv6_and_leaves_those_of_ipv4_alone() -> None:
    before = render_rulesets(document(service_data("web")))
    after = render_rulesets(document(service_data("web"), service6_data()))
    assert [table.name for table in diff_tables(before, after)] == ["filter (ipv6)", "nat (ipv6)"]


# Nodes


def test_without_ipv6_services_a_node_leaves_ip6tables_alone(site: Site) -> None:
    revision = site.deploy(service_data("web"))
    assert ipv6_chains(site.kernels["lb1"]) == NOTHING
    assert receipts(revision) == [{"ipv4"}, {"ipv4"}]
    assert faults_of(revision) == []


def test_a_machine_without_ip6tables_carries_ipv4_services(site: Site) -> None:
    site.kernels["lb1"] = FakeKernel(saved_ipv6=None)
    site.deploy(service_data("web"))
    worker = Worker(site)
    worker.tick()
    node = Node.objects.get(name="lb1")
    assert (node.in_sync, node.carried_revision) == (True, live_revision(site.cluster))


def test_ipv6_services_come_and_go_on_the_nodes_and_the_evidence_holds(site: Site) -> None:
    came = site.deploy(service_data("web"), service6_data())
    assert "LB-S-web6" in ipv6_chains(site.kernels["lb2"])["nat"]
    assert receipts(came) == [{"ipv4", "ipv6"}] * 2
    assert faults_of(came) == []

    gone = site.deploy(service_data("web6", port=8000))
    assert set(gone.rulesets) == {"ipv4"}
    assert ipv6_chains(site.kernels["lb2"]) == BASE
    assert receipts(gone) == [{"ipv4", "ipv6"}] * 2, "taking it out is a deed with a receipt"
    assert faults_of(gone) == []

    later = site.deploy(service_data("web", port=81))
    assert receipts(later) == [{"ipv4"}] * 2
    assert faults_of(later) == []


def test_what_is_left_in_ip6tables_is_drift_whatever_is_live(site: Site) -> None:
    site.deploy(service_data("web"))
    worker = Worker(site)
    worker.tick()
    held = site.kernels["lb1"].snapshot_ipv6
    assert held is not None
    held.table("nat").chains["LB-S-old"] = ("-j ACCEPT",)
    worker.tick(after=60)
    assert "- ipv6 nat: -N LB-S-old" in DriftEvent.objects.get().lines
    assert "LB-S-old" not in held.table("nat").chains


def test_where_ipv6_is_refused_ipv4_is_put_back_at_once(site: Site) -> None:
    Node.objects.filter(name="lb2").delete()
    site.kernels["lb1"] = FakeKernel(saved_ipv6=None)
    before = site.deploy(service_data("web"))
    rules = site.own_rules("lb1")
    job = site.start(service_data("web", port=81), service6_data()).jobs.get()

    assert site.run(job) is JobState.FAILED

    job.refresh_from_db()
    assert "The IPv4 rules were written, the others were not. The program ip6tables" in job.error
    assert "What was written was put back." in job.error
    assert site.own_rules("lb1") == rules
    assert site.guard("lb1").pending() is None
    assert Node.objects.get().carried_revision == before


# Guards


def unconfirmed(site: Site, *services: dict[str, Any]) -> Job:
    Cluster.objects.filter(pk=site.cluster.pk).update(confirm="manual", confirm_seconds=60)
    site.cluster.refresh_from_db()
    job = site.start(*services).jobs.get(node__name="lb1")
    assert site.run(job) is JobState.UNCONFIRMED
    return job


@pytest.fixture
def one(site: Site) -> Site:
    Node.objects.filter(name="lb2").delete()
    return site


def test_a_guard_takes_ipv6_out_again_that_was_not_confirmed(one: Site) -> None:
    one.deploy(service_data("web"))
    unconfirmed(one, service6_data())
    assert "LB-S-web6" in ipv6_chains(one.kernels["lb1"])["nat"]
    one.guard("lb1").advance(60)
    assert ipv6_chains(one.kernels["lb1"]) == BASE
    Worker(one).tick()
    node = Node.objects.get()
    assert (node.in_sync, node.carried_revision) == (True, live_revision(one.cluster))


def test_a_guard_puts_ipv6_back_that_was_to_go(one: Site) -> None:
    one.deploy(service_data("web"), service6_data())
    before = ipv6_chains(one.kernels["lb1"])
    unconfirmed(one, service_data("web6", port=8000))
    assert ipv6_chains(one.kernels["lb1"]) == BASE
    one.guard("lb1").advance(60)
    assert ipv6_chains(one.kernels["lb1"]) == before


def test_a_guard_that_knows_of_ipv4_only_takes_ipv6_out_as_well(one: Site) -> None:
    """Its file is of a version that carried nothing else."""
    one.deploy(service_data("web"))
    unconfirmed(one, service6_data())
    guard = one.guard("lb1")
    known = guard.confirmed()
    assert known is not None
    guard._confirmed = replace(known, rulesets={"ipv4": known.rulesets["ipv4"]})
    guard.advance(60)
    assert ipv6_chains(one.kernels["lb1"]) == BASE


def test_a_drill_does_not_bring_ipv6_to_a_node_that_has_none(one: Site) -> None:
    one.deploy(service_data("web"))
    worker = Worker(one)
    worker.tick()
    job = start_drill(actor=one.operator, node=Node.objects.get())
    assert one.run(job) is JobState.SUCCEEDED
    assert ipv6_chains(one.kernels["lb1"]) == NOTHING


def test_a_drill_proves_both_families_where_both_are_carried(one: Site) -> None:
    one.deploy(service_data("web"), service6_data())
    before = ipv6_chains(one.kernels["lb1"])
    worker = Worker(one)
    worker.tick()
    job = start_drill(actor=one.operator, node=Node.objects.get())
    assert one.run(job) is JobState.SUCCEEDED
    job.refresh_from_db()
    assert set(job.receipt) == {"ipv4", "ipv6"}
    assert ipv6_chains(one.kernels["lb1"]) == before
    assert set(compile_rulesets(document(service6_data()))) == {"ipv4", "ipv6"}


# Rehearsals and reviews


def test_a_change_with_ipv6_services_is_rehearsed_with_the_rules_of_both_families(site: Site) -> None:
    stage = make_stage(site)
    change = submit_change(actor=site.author, change=site.change(service_data("web"), service6_data("web6")))
    stage.run_all(change)
    assert {state for _, state in states(change)} == {"passed"}
    found = Rehearsal.objects.filter(change=change).first()
    texts = render_rulesets(document(service_data("web"), service6_data("web6")))
    assert found.ruleset_digest == digest_text("\n".join(digest_text(texts[f]) for f in ("ipv4", "ipv6")))
    assert found.result["digest"] == found.ruleset_digest


def test_a_wrong_ipv6_share_fails_the_rehearsal(site: Site) -> None:
    stage = make_stage(site)
    for way in stage.ways.values():
        way.spoil = lambda ruleset: spoil_shares(ruleset) if ruleset.family == "ipv6" else ruleset
    change = submit_change(actor=site.author, change=site.change(service_data("web"), service6_data()))
    stage.run_all(change)
    assert {state for _, state in states(change)} == {"failed"}
