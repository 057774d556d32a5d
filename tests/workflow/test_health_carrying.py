"""What health checks find reaches the kernel: when, how often, beside what, and what outlives what."""

from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest

from balancer.domain.types import BackendState, Family
from balancer.kernel.base import Busy, KernelError, OutcomeUnknown, Receipt
from balancer.models import AuditEvent, Cluster, DriftEvent, HealthEvent, Job, WeightMove
from balancer.ruleset.ir import Ruleset
from balancer.workflow.drift import put_ours_back
from balancer.workflow.effective import effective_of_job
from balancer.workflow.revisions import live_revision, node_rulesets, why_not_genuine
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.workflow.deeds import operate
from tests.workflow.healing import ALL, Checked, checked_node, shares, web
from tests.workflow.moving import FOUR, ONE, THREE, TWO, UNEVEN, carried, kernel
from tests.workflow.ticking import converged, damage, reboot

THIRD = Fraction(1, 3)


@pytest.fixture
def node(site: Site) -> Iterator[Checked]:
    yield from checked_node(site)


def test_a_backend_that_is_down_takes_nothing_new_at_the_next_tick_and_is_back_when_it_is_up(
    node: Checked,
) -> None:
    node.say(ONE)
    node.tick(after=0)
    assert shares(node) == {TWO: THIRD, THREE: THIRD, FOUR: THIRD}

    node.say(up=(ONE,))
    node.tick()

    assert shares(node) == dict.fromkeys(ALL, Fraction(1, 4))
    assert node.node.carried_health == ""


def test_it_is_no_job_and_no_event_of_the_history_and_nothing_that_is_approved_moves(node: Checked) -> None:
    live = live_revision(node.site.cluster)
    kept = live.digest, live.document, live.rulesets
    jobs, events = Job.objects.count(), AuditEvent.objects.count()

    for _ in range(3):
        node.say(ONE)
        node.tick()
        node.say(up=(ONE,))
        node.tick()

    assert len(kernel(node).writes) == 6
    assert (Job.objects.count(), AuditEvent.objects.count()) == (jobs, events)
    live.refresh_from_db()
    assert (live.digest, live.document, live.rulesets) == kept
    assert why_not_genuine(live) is None
    assert node.guard.confirmed().rulesets["ipv4"] == live.rulesets["ipv4"], "the way back is as approved"


def test_the_log_says_what_was_found_and_when_the_kernel_was_in_line(node: Checked) -> None:
    node.say(ONE, reason="connection refused after 1 ms")
    (event,) = HealthEvent.objects.all()
    assert (event.kind, event.service_name, event.endpoint, event.carried_at) == ("down", "web", ONE, None)
    assert event.why == f"tried tcp {ONE}, connection refused after 1 ms"

    node.tick()

    event.refresh_from_db()
    assert event.carried_at == node.now


def test_what_is_found_while_the_kernel_is_written_is_not_told_as_carried_yet(node: Checked) -> None:
    held = kernel(node)

    def sync(**given: Any) -> Receipt:
        node.say(TWO)
        return type(held).sync(held, **given)

    held.sync = sync  # type: ignore[method-assign]
    node.say(ONE)
    node.tick()
    del held.sync

    assert HealthEvent.objects.get(endpoint=ONE).carried_at is not None
    assert HealthEvent.objects.get(endpoint=TWO).carried_at is None
    node.tick()
    assert not HealthEvent.objects.filter(carried_at=None).exists()


def test_what_went_and_came_back_before_the_kernel_could_follow_does_not_wait_for_ever(node: Checked) -> None:
    node.say(ONE)
    node.say(up=(ONE,))

    node.tick()

    assert kernel(node).writes == []
    assert HealthEvent.objects.filter(carried_at=node.now).count() == 2


def test_backends_that_flap_cause_at_most_one_commit_a_second_and_what_comes_meanwhile_goes_together(
    node: Checked,
) -> None:
    for step in range(40):
        down = ALL[: step % 4]
        node.say(*down, up=tuple(e for e in ALL if e not in down))
        node.tick(after=0.25)

    times = kernel(node).writes
    assert len(times) >= 8
    assert all(after - before >= 1 for before, after in pairwise(times))


def test_a_finding_for_which_nothing_is_written_lets_the_next_one_not_wait(site: Site) -> None:
    alone = web() | {"name": "alone", "port": 81, "backends": [backend_data("10.0.0.9", port=80)]}
    (node,) = checked_node(site, web(), alone)
    node.say("10.0.0.9:80", service="alone")
    node.tick()
    assert (kernel(node).writes, node.node.carried_health != "") == ([], True)

    before = node.now
    node.say(ONE)
    node.tick(after=0)

    assert (len(kernel(node).writes), node.now) == (1, before)


def test_a_change_that_was_taken_back_while_it_waited_is_not_written(node: Checked) -> None:
    node.say(ONE)
    node.tick(after=0)
    writes = len(kernel(node).writes)
    node.wait = lambda seconds: node.say(ONE)  # type: ignore[method-assign]
    node.say(up=(ONE,))

    node.tick(after=0.5)

    assert len(kernel(node).writes) == writes


def test_an_override_of_an_operator_is_never_undone(node: Checked) -> None:
    operate(node.site, 3, state=BackendState.DISABLED)
    node.tick()
    node.say(up=ALL)
    node.tick()
    assert set(shares(node)) == {TWO, THREE, FOUR}

    node.say(TWO)
    node.tick()

    assert set(shares(node)) == {THREE, FOUR}
    assert carried(node).document.services[0].backends[0].state == "disabled"


def test_drift_is_put_right_first_and_health_comes_after_it_in_the_same_tick(node: Checked) -> None:
    node.tick()
    damage(node.site)
    node.say(ONE)

    node.tick(after=1)

    assert converged(node.site) == ["succeeded"]
    assert ONE not in shares(node)


def test_health_does_not_wait_until_a_fight_is_over(node: Checked) -> None:
    node.tick()
    for _ in range(4):
        damage(node.site)
        node.tick(after=10)
    assert DriftEvent.objects.get(ended_at=None).held_until is not None

    node.say(ONE)
    node.tick(after=1)

    assert ONE not in shares(node)


def test_where_drift_is_left_to_people_health_waits_for_them(node: Checked) -> None:
    Cluster.objects.update(on_drift="ask")
    damage(node.site)
    node.say(ONE)
    node.tick()
    assert (node.node.in_sync, node.node.carried_health) == (False, "")

    put_ours_back(actor=node.site.operator, node=node.node, event_id=DriftEvent.objects.get().pk)
    node.tick()

    assert ONE not in shares(node)


def test_a_kernel_that_is_busy_is_asked_again(node: Checked) -> None:
    node.say(ONE)
    kernel(node).fail_next = Busy("Somebody else is writing.")
    node.tick(after=0)
    assert node.node.carried_health == ""

    node.tick()

    assert ONE not in shares(node)
    assert converged(node.site) == []


def test_where_nobody_can_tell_what_was_written_the_node_says_so_and_finds_out(node: Checked) -> None:
    node.say(ONE)
    kernel(node).fail_next = OutcomeUnknown("The child died.")
    node.tick(after=0)
    node.tick(after=20)

    assert node.node.in_sync is True
    assert ONE not in shares(node)


SIX = "[2001:db8::3]:80"


def both_families(site: Site) -> Checked:
    backends = [backend_data("2001:db8::3"), backend_data("2001:db8::4")]
    (node,) = checked_node(site, web(), web(address="2001:db8::9", backends=backends) | {"name": "six"})
    node.say(ONE)
    node.say(SIX, service="six")
    return node


def fail_at_ipv6(node: Checked, patch: pytest.MonkeyPatch, *errors: BaseException) -> None:
    """Once for each error; then it works."""
    held, waiting = kernel(node), list(errors)
    sync = held.sync

    def failing(*, ruleset: Ruleset, **given: Any) -> Receipt:
        if ruleset.family is Family.IPV6 and waiting:
            raise waiting.pop(0)
        return sync(ruleset=ruleset, **given)

    patch.setattr(held, "sync", failing)


def down_in_kernel(node: Checked) -> dict[str, tuple[str, ...]]:
    """Of both families, which the kernel must hold alike."""
    found = carried(node)
    assert all(kernel(node).compare(ruleset=r).in_sync for r in node_rulesets(found.document).values())
    return dict(found.health.down)


@pytest.mark.parametrize("error", [Busy("Somebody else is writing."), OutcomeUnknown("The child died.")])
def test_where_one_family_cannot_be_written_both_stay_as_they_were_and_nobody_is_accused_of_drift(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: KernelError
) -> None:
    node = both_families(site)
    fail_at_ipv6(node, monkeypatch, error)

    node.tick(after=30)

    assert down_in_kernel(node) == {}
    node.tick()
    assert down_in_kernel(node) == {"web": (ONE,), "six": (SIX,)}
    assert not DriftEvent.objects.exists()


def test_where_the_other_family_cannot_be_put_back_either_the_node_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node = both_families(site)
    fail_at_ipv6(node, monkeypatch, *[OutcomeUnknown("The child died.")] * 2)

    node.tick(after=0)

    assert "The child died. What was carried before could not be put back" in caplog.text
    node.tick(after=30)
    assert down_in_kernel(node) == {"web": (ONE,), "six": (SIX,)}


def test_a_worker_that_died_between_two_families_goes_on_with_the_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = both_families(site)
    fail_at_ipv6(node, monkeypatch, SystemExit())
    with pytest.raises(SystemExit):
        node.tick(after=0)
    node.restart()

    node.tick()

    assert down_in_kernel(node) == {"web": (ONE,), "six": (SIX,)}
    assert not DriftEvent.objects.exists()
    assert converged(node.site) == []


def test_a_worker_that_died_between_kernel_and_row_only_writes_the_row(
    node: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.say(ONE)
    with monkeypatch.context() as patch:
        patch.setattr("balancer.workflow.health_carrying.remember_health", _die)
        with pytest.raises(SystemExit):
            node.tick(after=0)
    writes = len(kernel(node).writes)
    node.restart()

    node.tick()

    assert ONE not in shares(node)
    assert len(kernel(node).writes) == writes
    assert converged(node.site) == []


def _die(**_: object) -> None:
    raise SystemExit


def test_a_machine_that_was_started_again_gets_its_health_with_its_rules(node: Checked) -> None:
    node.say(ONE)
    node.tick()
    reboot(node.site)
    node.restart()

    node.tick()

    assert converged(node.site) == ["succeeded"]
    assert ONE not in shares(node)


def test_a_health_daemon_that_has_died_leaves_what_is_carried_as_it_is(node: Checked) -> None:
    node.say(ONE)
    node.tick()
    node.daemon = False
    node.say(TWO)
    before = len(kernel(node).writes)

    node.tick(after=600)
    node.tick()

    assert set(shares(node)) == {TWO, THREE, FOUR}
    assert len(kernel(node).writes) == before
    assert converged(node.site) == []


def test_an_apply_brings_what_is_known_by_then_and_tells_it_in_its_receipt(node: Checked) -> None:
    node.say(ONE)

    node.site.deploy(web(description="moved"))

    assert ONE not in shares(node)
    job = Job.objects.filter(node__name="lb1").order_by("-finished_at").first()
    assert job is not None
    assert effective_of_job(job).health.down == {"web": (ONE,)}
    node.tick()
    assert converged(node.site) == []


def test_a_service_that_is_no_longer_checked_gets_all_of_its_backends_back(node: Checked) -> None:
    node.say(ONE)
    node.tick()

    node.site.deploy(service_data("web"))

    assert set(shares(node)) == set(ALL)
    assert not node.node.backend_health.exists()


def test_all_down_keeps_serving_refuses_or_goes_to_another_service(site: Site) -> None:
    sorry = service_data("sorry", port=8080, backends=[backend_data("10.0.9.9")])
    policies = {"web": {}, "no": {"all_down": "refuse"}, "away": {"all_down": "service"}}
    backends = [backend_data(f"10.0.0.{last}", port=80) for last in range(3, 7)]
    services = [
        web(**fields) | {"name": name, "port": port, "backends": backends}
        for port, (name, fields) in enumerate(policies.items(), start=80)
    ]
    services[2]["all_down_service"] = "sorry"
    (node,) = checked_node(site, sorry, *services)
    for name in policies:
        node.say(*ALL, service=name)

    node.tick(after=1)

    assert set(shares(node, "web")) == set(ALL)
    assert shares(node, "no") == {} == shares(node, "away")
    chains = node.site.own_rules("lb1")["nat"]
    assert chains["LB-S-away"][-1] == "-g LB-S-sorry"
    told = set(HealthEvent.objects.filter(kind="panic").values_list("service_name", "why"))
    assert told == {
        ("web", "0 of 4 backends are healthy: all of them take new connections."),
        ("no", "0 of 4 backends are healthy: new connections are refused."),
        ("away", "0 of 4 backends are healthy: sorry takes the new connections."),
    }


def test_a_backend_that_is_up_again_rises_where_the_service_starts_slowly(site: Site) -> None:
    (node,) = checked_node(site, web(scheduler="random", slow_start=80))
    node.say(ONE)
    node.tick()
    assert not WeightMove.objects.exists()

    node.say(up=(ONE,))
    node.tick()
    low = shares(node)[ONE]
    for _ in range(20):
        node.tick()

    assert low == Fraction(1, 25)
    assert shares(node)[ONE] == Fraction(1, 4)
    assert all(after - before >= 1 for before, after in pairwise(kernel(node).writes))


def test_health_and_own_weights_together_are_written_at_most_once_a_second_however_long_they_take(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node,) = checked_node(site, web(scheduler="least-connections", slow_start=60))
    held = kernel(node)
    count = held.count_loads

    def count_loads(**given: Any) -> Any:
        node.now += timedelta(seconds=0.4)
        return count(**given)

    monkeypatch.setattr(held, "count_loads", count_loads)
    held.loads = {"web": UNEVEN}

    for step in range(60):
        node.say(*[TWO] * (step % 6 == 0), up=(TWO,) * (step % 6 == 3))
        node.tick(after=0.7)

    assert WeightMove.objects.exists()
    assert len(held.writes) >= 15
    assert min(after - before for before, after in pairwise(held.writes)) >= 1
