"""What is live was compiled by an earlier lbadmin: the nodes keep it until a change brings it up to date."""

import pytest

from balancer.domain.lifecycle import JobState
from balancer.domain.types import BackendState
from balancer.kernel.base import Rejected
from balancer.models import Job, Node, Revision
from balancer.ruleset.compile import COMPILER
from balancer.workflow.changes import digest_change
from balancer.workflow.deployments import apply_change
from balancer.workflow.drills import start_drill
from balancer.workflow.overrides import lift_override, set_override
from balancer.workflow.queries import judge_way_back, view_change
from balancer.workflow.revisions import is_outdated, kept_texts, why_not_genuine, why_outdated
from balancer.workflow.rollback import roll_back_to
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import service_data
from tests.ruleset.earlier import compile_earlier
from tests.upgrade import earlier_lbadmin
from tests.workflow.deeds import refusal_of
from tests.workflow.ticking import Worker, converged, damage

WEB, MAIL = service_data("web"), service_data("mail", port=25, scheduler="least-connections")


@pytest.fixture
def old(site: Site) -> Revision:
    """Live on both nodes, whose guards know it, since before the upgrade."""
    with earlier_lbadmin():
        live = site.deploy(WEB, MAIL)
        for name in site.kernels:
            Worker(site, name).tick(after=0)
    assert live.compiler == 1
    assert "LB-S-web:10.0.0.3-80" not in live.rulesets["ipv4"]
    return live


def test_new_revisions_say_which_compiler_made_them(site: Site) -> None:
    live = site.deploy(WEB)
    assert live.compiler == Revision.objects.get(number=0).compiler == COMPILER
    assert not is_outdated(live)


def test_an_older_number_alone_makes_nothing_outdated(site: Site) -> None:
    """Most documents may well compile to the same bytes as before."""
    live = site.deploy(WEB)
    live.compiler = 1
    assert not is_outdated(live)
    assert why_outdated(live) == ""
    assert why_not_genuine(live) is None


def test_it_is_said_in_plain_words_that_an_earlier_lbadmin_compiled_it(old: Revision) -> None:
    why = why_not_genuine(old) or ""
    assert why.startswith(
        f"{old} was compiled by an earlier lbadmin, which makes other rules of its document"
    )
    assert "Bring the rules up to date" in why


def test_what_was_tampered_with_is_still_called_so(site: Site) -> None:
    live = site.deploy(WEB)
    live.rulesets = {"ipv4": live.rulesets["ipv4"].replace("10.0.0.3", "10.0.0.9")}
    assert "does not compile to the ruleset that was kept with it" in (why_not_genuine(live) or "")


def test_nodes_keep_what_they_carry_and_nothing_is_written(site: Site, old: Revision) -> None:
    before, jobs = {name: site.own_rules(name) for name in site.kernels}, Job.objects.count()
    worker = Worker(site)
    for _ in range(4):
        worker.tick(after=30)
    worker.restart()
    worker.tick(after=30)

    assert {name: site.own_rules(name) for name in site.kernels} == before
    assert Job.objects.count() == jobs
    assert worker.node.in_sync is True, "compared with the text that was kept"


def test_what_differs_is_seen_and_left(site: Site, old: Revision) -> None:
    damage(site)
    worker = Worker(site)
    for _ in range(4):
        worker.tick(after=30)

    assert worker.node.in_sync is False
    assert converged(site) == []


def test_a_guard_keeps_the_rules_that_it_was_told(site: Site, old: Revision) -> None:
    known = site.guard("lb1").confirmed()
    Worker(site).tick(after=30)
    assert site.guard("lb1").confirmed() == known
    assert known is not None
    assert dict(known.rulesets) == kept_texts(old)


def test_overrides_and_drills_are_refused_with_a_way_out(site: Site, old: Revision) -> None:
    where = {"service": "web", "address": "10.0.0.3", "port": 80, "reason": "It smokes."}
    asked = {"actor": site.operator, "cluster": site.cluster, **where}
    for deed in (
        lambda: set_override(**asked, state=BackendState.DISABLED),
        lambda: set_override(**asked, weight=2),
        lambda: start_drill(actor=site.operator, node=Node.objects.get(name="lb1")),
    ):
        refused = refusal_of(deed)
        assert refused.code == "outdated"
        assert "Compile it anew" in refused.message
    assert not Job.objects.filter(reason__in=["drill", "converge"]).exists()


def test_an_override_from_before_stays_until_the_rules_are_up_to_date(site: Site, old: Revision) -> None:
    with earlier_lbadmin():
        row = set_override(
            actor=site.operator, cluster=site.cluster, service="web", address="10.0.0.3", port=80,
            reason="It smokes.", state=BackendState.DISABLED,
        )  # fmt: skip
        worker = Worker(site)
        worker.tick()
    rules = site.own_rules("lb1")
    worker.tick(after=30)

    assert refusal_of(lambda: lift_override(actor=site.operator, override=row)).code == "outdated"
    assert site.own_rules("lb1") == rules
    assert worker.node.in_sync is None, "nobody can tell"
    assert "cannot be compared" in worker.node.sync_detail


def test_compiling_it_anew_is_reviewed_and_applied_as_any_change_is(site: Site, old: Revision) -> None:
    assert not judge_way_back(revision=old).identical
    change = roll_back_to(actor=site.operator, revision=old)
    assert change.title == "Compile revision 1 anew"
    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "state"
    (diff, *_) = view_change(change=change, user=site.approver).rulesets or ()
    assert diff.tables[0].added > 0
    assert diff.tables[0].removed > 0

    new = site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert (new.number, new.compiler, new.document) == (2, COMPILER, old.document)
    assert new.rulesets != old.rulesets
    assert why_not_genuine(new) is None
    for name in site.kernels:
        assert "LB-S-web:10.0.0.3-80" in site.own_rules(name)["nat"]
    set_override(
        actor=site.operator, cluster=site.cluster, service="web", address="10.0.0.3", port=80,
        reason="It smokes.", state=BackendState.DRAINING,
    )  # fmt: skip
    assert refusal_of(lambda: roll_back_to(actor=site.operator, revision=new)).code == "nothing"


def test_an_approval_is_bound_to_the_rules_that_were_seen(site: Site, old: Revision) -> None:
    """Each service is a draft of the change, so that what is compiled for it is in the digest."""
    change = roll_back_to(actor=site.operator, revision=old)
    now = submit_change(actor=site.operator, change=change).digest
    assert set(change.drafts.values_list("service_name", "action")) == {("web", "modify"), ("mail", "modify")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("balancer.workflow.changes.compile_document", compile_earlier)
        assert digest_change(change) != now


def test_any_other_change_brings_the_rules_up_to_date_too(site: Site, old: Revision) -> None:
    new = site.deploy(service_data("web", port=81))
    assert new.compiler == COMPILER
    assert why_not_genuine(new) is None
    assert "LB-S-mail:10.0.0.3-25" in site.own_rules("lb2")["nat"]


def test_an_apply_that_fails_leads_back_to_the_rules_that_were_kept(site: Site, old: Revision) -> None:
    """Also a guard that was started anew and knew of nothing."""
    before = site.own_rules("lb1")
    site.guards.clear()
    deployment = site.start(service_data("web", port=81))
    site.kernels["lb1"].fail_next = Rejected("The kernel refused the rules.")
    assert site.run(deployment.jobs.get(node__name="lb1")) is JobState.FAILED
    confirmed = site.guard("lb1").confirmed()
    assert confirmed is not None
    assert dict(confirmed.rulesets) == kept_texts(old)
    assert site.own_rules("lb1") == before
