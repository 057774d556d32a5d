"""What a health daemon asks for and writes down: which services, what is news, and what it costs."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from balancer.domain.types import BackendState
from balancer.models import BackendHealth, HealthEvent, Node, NodeHealth
from balancer.workflow import health_records
from balancer.workflow.health import keep_only, record_standings, targets_of
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import operate
from tests.workflow.healing import ALL, Checked, checked_node, standing, web
from tests.workflow.moving import ONE, TWO


@pytest.fixture
def node(site: Site) -> Iterator[Checked]:
    yield from checked_node(site)


def test_a_node_checks_the_services_that_it_carries_with_the_overrides_laid_over(site: Site) -> None:
    assert targets_of("lb1") == () == targets_of("nobody")
    site.deploy(web(), service_data("plain", port=81), web(enabled=False) | {"name": "off", "port": 82})
    operate(site, 3, state=BackendState.DISABLED)

    (found,) = targets_of("lb1")

    assert found.name == "web"
    assert [b.state for b in found.backends] == ["disabled", "enabled", "enabled", "enabled"]


def test_what_says_the_same_again_is_not_written_but_for_its_words_now_and_then(node: Checked) -> None:
    node.say(up=ALL, reason="connected after 1 ms")
    before = BackendHealth.objects.get(endpoint=ONE)

    node.now += timedelta(seconds=2)
    node.say(up=ALL, reason="connected after 2 ms")
    assert BackendHealth.objects.get(endpoint=ONE).reason == before.reason
    assert NodeHealth.objects.get().checked_at == node.now

    node.now += timedelta(seconds=30)
    node.say(up=ALL, reason="connected after 3 ms")
    assert "3 ms" in BackendHealth.objects.get(endpoint=ONE).reason
    assert not HealthEvent.objects.exists(), "to be found up at first is no news"


def test_a_daemon_that_was_started_again_does_not_undo_what_was_found(node: Checked) -> None:
    node.say(ONE)
    undecided = [standing(e, up=None, at=node.now) for e in (ONE, TWO)]
    record_standings("lb1", undecided, clock=lambda: node.now)
    assert dict(BackendHealth.objects.values_list("endpoint", "up")) == {ONE: False, TWO: None}

    node.say(up=(ONE, TWO))

    assert list(HealthEvent.objects.order_by("pk").values_list("endpoint", "kind")) == [
        (ONE, "down"),
        (ONE, "up"),
    ]


def test_a_daemon_that_was_started_again_and_cannot_check_says_so_beside_what_was_found(
    node: Checked,
) -> None:
    node.say(ONE, up=(TWO,))
    why = "tried tcp, but this node could not: operation not permitted"

    blind = [standing(e, up=None, at=node.now, reason=why, warning=why) for e in (ONE, TWO)]
    record_standings("lb1", blind, clock=lambda: node.now)

    rows = BackendHealth.objects.order_by("endpoint").values_list("endpoint", "up", "warning")
    assert list(rows) == [(ONE, False, why), (TWO, True, why)]
    node.say(ONE, up=(TWO,))
    assert set(BackendHealth.objects.values_list("warning", flat=True)) == {""}


def test_what_was_found_of_backends_that_are_no_longer_checked_is_forgotten(node: Checked) -> None:
    """Also of services that only a revision had which was never confirmed: no job says so."""
    node.say(ONE, up=(TWO,))
    node.say(ONE, service="unconfirmed")

    keep_only("lb1", targets_of("lb1"))

    assert set(BackendHealth.objects.values_list("service_name", "endpoint")) == {("web", ONE), ("web", TWO)}
    keep_only("lb1", ())
    assert not BackendHealth.objects.exists()


def test_a_warning_is_written_at_once(node: Checked) -> None:
    node.say(up=(ONE,))
    warned = standing(ONE, up=True, at=node.now, warning="The certificate expires in 3 days.")

    record_standings("lb1", [warned], clock=lambda: node.now)

    assert BackendHealth.objects.get().warning == "The certificate expires in 3 days."


def test_a_thousand_backends_cost_a_handful_of_statements(node: Checked) -> None:
    many = [f"10.1.{n // 250}.{n % 250}:80" for n in range(1000)]

    for up in (True, False):
        found = [standing(endpoint, up=up, at=node.now) for endpoint in many]
        with CaptureQueriesContext(
            connection,
        ) as queries:
            record_standings("lb1", found, clock=lambda: node.now)
        assert len(queries) <= 30
    with CaptureQueriesContext(connection) as queries:
        record_standings("lb1", found, clock=lambda: node.now)

    assert len(queries) <= 6
    assert BackendHealth.objects.filter(up=False).count() == 1000 == HealthEvent.objects.count()


def test_the_log_of_a_node_forgets_its_oldest(node: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_records, "EVENTS_KEPT", 5)
    for step in range(8):
        node.say(*([ONE] if step % 2 == 0 else []), up=(ONE,) if step % 2 else ())

    assert HealthEvent.objects.count() == 5
    assert HealthEvent.objects.first().kind == "up"


def test_a_node_that_takes_no_part_is_neither_checked_nor_known(node: Checked) -> None:
    Node.objects.filter(name="lb1").update(enabled=False)
    assert targets_of("lb1") == ()
    record_standings("stranger", [standing(ONE, up=False, at=node.now)], clock=lambda: node.now)
    assert not BackendHealth.objects.exists()
