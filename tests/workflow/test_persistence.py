"""The clients of services with persistence: counted at ticks, and forgotten on every node when asked for."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from balancer.domain.types import BackendState
from balancer.kernel.base import Busy, Rejected
from balancer.models import AuditEvent, Clearing, Node
from balancer.workflow import persistence
from balancer.workflow.overrides import set_override
from balancer.workflow.persistence import clear_persistence, keeps_clients
from balancer.workflow.queries import recent_clearings, view_clients, view_node_clients
from balancer.workflow.queries.ages import as_of
from tests.cast import Site, make_person
from tests.documents import backend_data, service_data
from tests.matrix import CLEARS_PERSISTENCE, ROLES
from tests.workflow.deeds import refusal_of
from tests.workflow.ticking import Worker

FIRST, SECOND = (f"LB-4.32-web:10.0.0.{last}-80" for last in (3, 4))
STICKY = service_data(
    "web",
    persistence={"mode": "source"},
    backends=[backend_data(f"10.0.0.{last}") for last in (3, 4)],
)


@pytest.fixture
def sticky(site: Site) -> Site:
    site.deploy(STICKY)
    for kernel in site.kernels.values():
        kernel.sets.clients[FIRST] |= {"192.0.2.1", "192.0.2.2"}
        kernel.sets.clients[SECOND] |= {"192.0.2.3"}
    return site


def clear(site: Site, *, by: User | None = None, **fields: Any) -> tuple[Clearing, ...]:
    return clear_persistence(
        **{"actor": by or site.operator, "cluster": site.cluster, "service": "web", **fields}
    )


def held(site: Site, node: str) -> dict[str, int]:
    return dict(site.kernels[node].count_clients())


def test_a_node_says_how_many_clients_it_remembers_every_ten_seconds_and_records_no_event(
    sticky: Site,
) -> None:
    worker = Worker(sticky)
    worker.tick()
    events = AuditEvent.objects.count()
    first = worker.node
    assert first.clients == {"counts": {FIRST: 2, SECOND: 1}}
    assert first.clients_at == worker.now

    sticky.kernels["lb1"].sets.clients[FIRST].add("192.0.2.9")
    worker.tick(after=5)
    assert worker.node.clients_at == first.clients_at
    worker.tick(after=5)

    assert worker.node.clients["counts"][FIRST] == 3
    assert AuditEvent.objects.count() == events


def test_what_is_counted_is_given_room_and_a_kernel_that_is_busy_then_is_asked_again(
    sticky: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def make_room() -> int:
        asked.append(True)
        raise Busy("somebody writes.")

    monkeypatch.setattr(sticky.kernels["lb1"], "make_room", make_room)
    worker = Worker(sticky)
    worker.tick()
    worker.tick(after=5)
    assert asked == [True]
    worker.tick(after=5)
    assert asked == [True, True]
    assert worker.node.clients == {"counts": {FIRST: 2, SECOND: 1}}


def test_without_persistence_nobody_asks_the_kernel(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.deploy(
        service_data("web"), service_data("off", port=81, enabled=False, persistence={"mode": "source"})
    )
    assert not keeps_clients(site.cluster)
    monkeypatch.setattr(site.kernels["lb1"], "count_clients", lambda: pytest.fail("nobody keeps clients"))
    worker = Worker(site)
    worker.tick()
    assert (worker.node.clients, worker.node.clients_at) == ({}, None)


def test_a_kernel_that_cannot_count_says_why_and_the_tick_goes_on(
    sticky: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> dict[str, int]:
        raise Rejected("ipset said: no.")

    monkeypatch.setattr(sticky.kernels["lb1"], "count_clients", fail)
    worker = Worker(sticky)
    worker.tick()
    assert worker.node.clients == {"error": "ipset said: no."}
    assert worker.node.in_sync
    (service,) = view_node_clients(node=worker.node)
    assert service.reports[0].error == "ipset said: no."
    assert service.total == 0


def test_every_node_forgets_the_clients_at_its_tick_even_if_no_message_came(sticky: Site) -> None:
    rows = clear(sticky)
    assert {row.node.name for row in rows} == {"lb1", "lb2"}
    assert len({row.request for row in rows}) == 1
    assert held(sticky, "lb1") == {FIRST: 2, SECOND: 1}, (
        "nothing is done before the node's own worker does it"
    )

    for name in ("lb1", "lb2"):
        worker = Worker(sticky, name=name)
        worker.tick()
        assert held(sticky, name) == {FIRST: 0, SECOND: 0}
        assert worker.node.clients["counts"] == {FIRST: 0, SECOND: 0}, "counted anew at once"

    assert set(Clearing.objects.values_list("state", "forgotten")) == {("done", 3)}
    told = AuditEvent.objects.filter(action__startswith="clearing.").order_by("number")
    assert [(event.action, event.actor_name, event.object_label) for event in told] == [
        ("clearing.asked", "operator", "edge"),
        ("clearing.done", "system", "lb1"),
        ("clearing.done", "system", "lb2"),
    ]
    assert told[0].facts["nodes"] == ["lb1", "lb2"]
    assert (told[1].facts["asked_by"], told[1].facts["forgotten"]) == ("operator", 3)


def test_the_clients_of_one_backend_are_forgotten_and_the_others_stay(sticky: Site) -> None:
    clear(sticky, endpoint="10.0.0.4:80")
    Worker(sticky).tick()
    assert held(sticky, "lb1") == {FIRST: 2, SECOND: 0}
    assert Clearing.objects.get(node__name="lb1").forgotten == 1


def test_a_request_is_a_tick_for_each_node_and_names_nothing(
    sticky: Site, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "balancer.workflow.queue.current_app.send_task",
        lambda task, *, args, queue, **_: sent.append((task, args, queue)),
    )
    with django_capture_on_commit_callbacks(execute=True):
        clear(sticky)
    assert sent == [("balancer.tasks.node_tick", [], f"node.{name}") for name in ("lb1", "lb2")]


def test_a_kernel_that_is_busy_is_asked_again_and_one_that_fails_is_on_record(sticky: Site) -> None:
    clear(sticky)
    worker = Worker(sticky)
    sticky.kernels["lb1"].fail_next = Busy("somebody else writes")
    worker.tick()
    assert Clearing.objects.get(node__name="lb1").state == "queued"
    sticky.kernels["lb1"].fail_next = Rejected("ipset said: no.")
    worker.tick()

    row = Clearing.objects.get(node__name="lb1")
    assert (row.state, row.error, row.forgotten) == ("failed", "ipset said: no.", None)
    assert row.finished_at == worker.now
    assert AuditEvent.objects.get(action="clearing.failed").facts["error"] == "ipset said: no."
    assert held(sticky, "lb1")[FIRST] == 2
    assert clear(sticky)[0].node.name == "lb1", "who asks again is heard"


def test_what_nobody_expected_ends_the_request_and_not_the_ticks(
    sticky: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(**_: Any) -> int:
        raise ZeroDivisionError("oh")

    clear(sticky)
    monkeypatch.setattr(sticky.kernels["lb1"], "forget_clients", break_down)
    worker = Worker(sticky)
    worker.tick()
    assert Clearing.objects.get(node__name="lb1").error == "Unexpected ZeroDivisionError: oh"
    assert worker.node.last_seen == worker.now


def test_a_worker_that_died_in_between_carries_it_out_once_more(
    sticky: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    clear(sticky)
    with monkeypatch.context() as patch:
        patch.setattr(persistence, "_record", die)
        with pytest.raises(KeyboardInterrupt):
            Worker(sticky).tick()
    Worker(sticky).tick()
    assert Clearing.objects.get(node__name="lb1").state == "done"
    assert AuditEvent.objects.filter(action="clearing.done").count() == 1


def test_it_is_carried_out_while_a_deployment_goes_on(sticky: Site) -> None:
    sticky.start(STICKY | {"description": "new"})
    clear(sticky)
    Worker(sticky, name="lb2").tick()
    assert held(sticky, "lb2")[FIRST] == 0


def test_a_service_that_lost_its_persistence_meanwhile_has_nobody_to_forget(sticky: Site) -> None:
    clear(sticky)
    sticky.deploy(service_data("web"))
    Worker(sticky).tick()
    assert Clearing.objects.get(node__name="lb1").forgotten == 0


@pytest.mark.parametrize("role", ROLES)
def test_who_operates_backends_may_and_nobody_else(sticky: Site, role: str) -> None:
    roles = () if role in {"no role", "superuser"} else (role,)
    person = make_person("person", *roles, superuser=role == "superuser")
    if role in CLEARS_PERSISTENCE:
        assert len(clear(sticky, by=person)) == 2
    else:
        assert refusal_of(lambda: clear(sticky, by=person)).code == "forbidden"
        assert not Clearing.objects.exists()
        assert AuditEvent.objects.filter(action="clearing.asked.refused").count() == 1


def test_what_cannot_be_forgotten_is_refused_and_changes_nothing(sticky: Site) -> None:
    sticky.deploy(STICKY, service_data("api", port=81))
    wrong: dict[str, dict[str, Any]] = {
        "state": {"service": "api"},
        "invalid": {"endpoint": "10.0.0.99:80"},
        "forbidden": {"actor": None},
    }
    for code, fields in wrong.items():
        refusal = refusal_of(lambda fields=fields: clear(sticky, **fields))
        assert refusal.code == code
        assert str(refusal.message).endswith(".")
    assert refusal_of(lambda: clear(sticky, service="gone")).code == "state"
    Node.objects.update(enabled=False)
    assert refusal_of(lambda: clear(sticky)).code == "state"
    assert not Clearing.objects.exists()


def test_asking_again_reaches_only_the_nodes_that_are_free_to_be_asked(sticky: Site) -> None:
    clear(sticky)
    assert refusal_of(lambda: clear(sticky)).code == "nothing"
    Worker(sticky).tick()
    assert [row.node.name for row in clear(sticky)] == ["lb1"]
    assert [row.node.name for row in clear(sticky, endpoint="10.0.0.3:80")] == ["lb1", "lb2"]


def test_the_database_keeps_no_two_equal_requests_of_a_node(sticky: Site) -> None:
    row = clear(sticky)[0]
    row.pk, row._state.adding = None, True
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


def test_a_view_tells_counts_ages_and_what_is_not_kept(sticky: Site) -> None:
    worker = Worker(sticky)
    worker.tick()
    set_override(
        actor=sticky.operator,
        cluster=sticky.cluster,
        service="web",
        address="10.0.0.4",
        port=80,
        state=BackendState.DISABLED,
        reason="disk is full",
    )
    worker.tick()
    worker.tick(after=10)

    view = view_clients(cluster=sticky.cluster, name="web", now=worker.now + timedelta(seconds=4))

    assert view is not None
    assert [(backend.endpoint, backend.counts) for backend in view.backends] == [
        ("10.0.0.3:80", (2, None)),
        ("10.0.0.4:80", (None, None)),
    ]
    assert [report.age for report in view.reports] == ["as of 4 s ago", "not counted yet"]
    assert view.total == 2
    assert view_clients(cluster=sticky.cluster, name="gone") is None
    assert recent_clearings(cluster=sticky.cluster, name="web") == ()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "as of 0 s ago"), (119.9, "as of 119 s ago"), (120, "as of 2 min ago"), (7300, "as of 2 h ago")],
)
def test_an_age_is_told_in_the_largest_unit_that_fits(site: Site, seconds: float, text: str) -> None:
    now = Worker(site).now
    assert as_of(now - timedelta(seconds=seconds), now=now) == text
