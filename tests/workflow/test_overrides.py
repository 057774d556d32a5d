"""Operating backends without a change: what it needs, how it reaches the nodes, and what outlives what."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from balancer.domain.types import BackendState
from balancer.models import AuditEvent, Cluster, Job, LateReview, Node, Override
from balancer.workflow.deployments import apply_change
from balancer.workflow.effective import active_overrides, effective_document, effective_of_job
from balancer.workflow.overrides import lift_override, set_override
from balancer.workflow.revisions import compile_rulesets, live_revision
from balancer.workflow.rollback import roll_back_to
from tests.cast import Site, make_person
from tests.documents import backend_data, service_data
from tests.workflow.deeds import operate, refusal_of, run_jobs
from tests.workflow.ticking import Worker


def carries_effective(site: Site, *names: str) -> bool:
    """Whether the kernels hold the live revision with the overrides in force, chain for chain."""
    site.cluster.refresh_from_db()
    document = effective_document(site.cluster, live_revision(site.cluster))
    rulesets = compile_rulesets(document).values()
    kernels = [site.kernels[name] for name in names or ("lb1", "lb2")]
    return all(kernel.compare(ruleset=ruleset).in_sync for kernel in kernels for ruleset in rulesets)


def chosen(site: Site, node: str = "lb1") -> str:
    """The rules of a node that choose a backend, which they name by its chain; and whom they may choose."""
    nat = site.own_rules(node)["nat"]
    chains = [rule.partition("-g ")[2] for rules in nat.values() for rule in rules if "-g LB-S-" in rule]
    rules = [rule for name, rules in nat.items() if ":" not in name or name in chains for rule in rules]
    return "\n".join(rules)


@pytest.fixture
def web(site: Site) -> Site:
    site.deploy(service_data("web"))
    return site


def test_draining_a_backend_reaches_every_node_at_once_and_nothing_that_is_approved_moves(web: Site) -> None:
    before = live_revision(web.cluster)
    digest, document = before.digest, before.document

    operate(web)

    queued = Job.objects.filter(state="queued")
    assert {(job.node.name, job.cause) for job in queued} == {
        (name, "operator drained 10.0.0.3:80 of web") for name in ("lb1", "lb2")
    }
    run_jobs(web)
    assert carries_effective(web)
    assert "10.0.0.3" not in chosen(web)
    assert "10.0.0.4" in chosen(web)
    after = live_revision(web.cluster)
    assert (after.pk, after.digest, after.document) == (before.pk, digest, document)
    assert set(Node.objects.values_list("in_sync", flat=True)) == {True}


def test_lifting_gives_the_kernels_back_what_was_approved(web: Site) -> None:
    rules = web.own_rules("lb1")
    override = operate(web)
    run_jobs(web)
    assert web.own_rules("lb1") != rules

    lift_override(actor=web.operator, override=override)
    run_jobs(web)

    assert web.own_rules("lb1") == web.own_rules("lb2") == rules
    assert not active_overrides(web.cluster).exists()
    assert set(Node.objects.values_list("carried_overrides", flat=True)) == {""}


def test_an_override_survives_applies_and_a_rollback_until_it_is_lifted(web: Site) -> None:
    first = live_revision(web.cluster)
    override = operate(web)
    run_jobs(web)
    for port in (81, 82):
        fixed = [backend_data(f"10.0.0.{last}", port=80) for last in range(3, 7)]
        web.deploy(service_data("web", port=port, backends=fixed))
        assert carries_effective(web)
        assert "10.0.0.3" not in chosen(web)

    back = roll_back_to(actor=web.operator, revision=first)
    revision = web.finish(apply_change(actor=web.operator, change=web.approve(back)))

    assert revision.rulesets == first.rulesets, "what was approved knows nothing of overrides"
    assert "10.0.0.3" not in chosen(web)
    lift_override(actor=web.operator, override=override)
    run_jobs(web)
    assert "10.0.0.3" in chosen(web)


def test_the_receipt_of_a_job_says_what_was_laid_over_the_revision(web: Site) -> None:
    operate(web)
    run_jobs(web)

    job = Job.objects.filter(node__name="lb1").order_by("-queued_at").first()
    assert job is not None
    (entry,) = job.receipt["ipv4"]["overrides"]
    assert entry["service"] == "web"
    assert (entry["address"], entry["port"], entry["state"], entry["weight"]) == (
        "10.0.0.3",
        80,
        "draining",
        None,
    )


def test_what_a_job_wrote_can_be_told_after_the_override_was_lifted(web: Site) -> None:
    override = operate(web)
    run_jobs(web)
    job = Job.objects.filter(node__name="lb1").latest("queued_at")
    lift_override(actor=web.operator, override=override)

    wrote = effective_of_job(job)

    assert [str(b.state) for b in wrote.document.services[0].backends][:2] == ["draining", "enabled"]
    assert wrote.digest == Node.objects.get(name="lb1").carried_overrides
    (ruleset,) = compile_rulesets(wrote.document).values()
    assert web.kernels["lb1"].compare(ruleset=ruleset).in_sync


def test_a_lost_message_costs_one_tick(web: Site) -> None:
    operate(web)
    Job.objects.filter(state="queued").delete()
    worker = Worker(web)

    worker.tick()

    assert carries_effective(web, "lb1")
    assert Job.objects.get(cause__startswith="The node carries other").state == "succeeded"
    count = Job.objects.count()
    worker.tick()
    assert Job.objects.count() == count, "once is enough"
    assert worker.node.in_sync is True


def test_drift_is_judged_with_the_overrides_in_force(web: Site) -> None:
    operate(web)
    run_jobs(web)
    Cluster.objects.update(on_drift="ask")
    worker = Worker(web)
    worker.tick(after=30)
    assert worker.node.in_sync is True

    chains = web.kernels["lb1"].snapshot.table("nat").chains
    chains["LB-S-web"] = chains["LB-S-web"][1:]
    worker.tick(after=30)

    assert worker.node.in_sync is False


def test_an_override_set_while_a_deployment_runs_is_carried_when_it_is_over(web: Site) -> None:
    deployment = web.start(service_data("web"), service_data("mail", port=25))
    first, second = deployment.jobs.order_by("node__name")
    web.run(first)
    operate(web)
    assert not Job.objects.filter(reason="converge").exists()

    web.run(second)
    assert carries_effective(web, "lb2"), "its own job took it along"
    worker = Worker(web)
    worker.tick()

    assert carries_effective(web)


def test_a_deployment_may_begin_while_an_override_is_still_on_its_way(web: Site) -> None:
    operate(web)

    web.deploy(service_data("web"), service_data("mail", port=25))

    assert carries_effective(web)
    assert "10.0.0.3:80" not in chosen(web, "lb2")


def test_an_override_of_the_same_kind_takes_the_place_of_the_older_one_and_both_want_a_signature(
    web: Site,
) -> None:
    older = operate(web)
    newer = operate(web, state=BackendState.DISABLED)

    older.refresh_from_db()
    assert older.lifted_by == web.operator
    assert list(active_overrides(web.cluster)) == [newer]
    assert LateReview.objects.filter(signed_at=None).count() == 2


def test_enabling_a_drained_backend_lifts_the_override(web: Site) -> None:
    override = operate(web)

    assert operate(web, state=BackendState.ENABLED, reason="disk is empty") == override

    assert not active_overrides(web.cluster).exists()
    assert Override.objects.count() == 1
    run_jobs(web)
    assert "10.0.0.3" in chosen(web)


def test_a_state_and_a_weight_of_one_backend_are_set_and_lifted_apart(site: Site) -> None:
    site.deploy(service_data("web", backends=[backend_data(f"10.0.0.{n}", weight=10) for n in (3, 4, 5)]))
    operate(site)
    weight = operate(site, weight=15)
    operate(site, 4, weight=5)

    (service,) = effective_document(site.cluster, live_revision(site.cluster)).services
    assert [(str(b.state), b.weight) for b in service.backends] == [
        ("draining", 15),
        ("enabled", 5),
        ("enabled", 10),
    ]
    lift_override(actor=site.operator, override=weight)
    (service,) = effective_document(site.cluster, live_revision(site.cluster)).services
    assert (str(service.backends[0].state), service.backends[0].weight) == ("draining", 10)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"reason": " "}, "reason"),
        ({"state": BackendState.ENABLED}, "nothing"),
        ({"weight": 1}, "nothing"),
        ({"weight": 2}, "limit"),
        ({"weight": 0}, "limit"),
        ({"state": BackendState.DRAINING, "weight": 1}, "invalid"),
        ({"state": BackendState.DRAINING, "service": "mail"}, "limit"),
        ({"state": BackendState.DRAINING, "port": 81}, "limit"),
    ],
)
def test_what_cannot_be_set_is_refused_on_record_and_changes_nothing(
    web: Site, fields: dict[str, Any], code: str
) -> None:
    fields.setdefault("state", None if "weight" in fields else BackendState.DRAINING)

    assert refusal_of(lambda: operate(web, **fields)).code == code

    assert not Override.objects.exists()
    assert not LateReview.objects.exists()
    assert not Job.objects.filter(reason="converge").exists()
    assert AuditEvent.objects.get(action="override.set.refused").facts["code"] == code


def test_an_address_that_is_none_is_refused(web: Site) -> None:
    deed = {"actor": web.operator, "cluster": web.cluster, "service": "web", "port": 80, "reason": "x"}

    refusal = refusal_of(lambda: set_override(**deed, address="nonsense", state=BackendState.DRAINING))

    assert refusal.code == "invalid"


def test_the_policy_of_the_cluster_sets_the_limits(web: Site) -> None:
    Cluster.objects.update(override_keep=4)
    assert refusal_of(lambda: operate(web)).code == "limit"
    Cluster.objects.update(override_keep=3, override_weight_percent=100)
    operate(web)
    operate(web, 4, weight=2)
    assert refusal_of(lambda: operate(web, 4)).code == "limit"


def test_setting_it_twice_or_lifting_it_twice_is_refused(web: Site) -> None:
    override = operate(web)
    assert refusal_of(lambda: operate(web)).code == "nothing"

    lift_override(actor=web.operator, override=override)

    assert refusal_of(lambda: lift_override(actor=web.operator, override=override)).code == "state"


@pytest.mark.parametrize("role", ["Viewer", "Editor", "Approver"])
def test_who_is_no_operator_operates_nothing(web: Site, role: str) -> None:
    person, override = make_person("somebody", role), operate(web)

    assert refusal_of(lambda: operate(web, 4, by=person)).code == "forbidden"
    assert refusal_of(lambda: lift_override(actor=person, override=override)).code == "forbidden"
    assert refusal_of(lambda: lift_override(actor=None, override=override)).code == "forbidden"
    override.refresh_from_db()
    assert override.lifted_at is None


def test_a_backend_that_a_change_removed_leaves_its_override_without_effect_until_it_is_back(
    web: Site,
) -> None:
    override = operate(web)
    run_jobs(web)
    web.deploy(service_data("web", backends=[backend_data(f"10.0.0.{last}") for last in (4, 5, 6)]))
    assert carries_effective(web)
    assert list(active_overrides(web.cluster)) == [override]

    web.deploy(service_data("web"))

    assert "10.0.0.3" not in chosen(web)
    assert carries_effective(web)


def test_the_database_keeps_two_of_a_kind_on_one_backend_apart(web: Site) -> None:
    override = operate(web)

    with pytest.raises(IntegrityError), transaction.atomic():
        Override.objects.create(
            cluster=web.cluster,
            service_name="web",
            address=override.address,
            port=80,
            kind="state",
            state="disabled",
            revision=override.revision,
            reason="x",
            set_by=web.operator,
            set_at=timezone.now(),
        )


def test_everything_is_in_the_history_with_its_reason(web: Site) -> None:
    override = operate(web)
    lift_override(actor=web.operator, override=override)

    found = AuditEvent.objects.filter(object_type="override").order_by("pk")
    assert [(e.action, e.actor_name, e.facts["reason"]) for e in found] == [
        ("override.set", "operator", "disk is full"),
        ("override.lifted", "operator", "disk is full"),
    ]
