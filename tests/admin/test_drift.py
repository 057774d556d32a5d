"""Drift in the console: the lines with their times, what becomes of it, and the button of operators."""

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.models import Cluster, DriftEvent, Node
from balancer.workflow.drift import put_ours_back
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import live_revision
from tests.admin.conftest import Login, messages_of
from tests.cast import Site
from tests.documents import service_data
from tests.upgrade import earlier_lbadmin

LONG = f"- nat: -A LB-S-web -m comment --comment {'x' * 250} -j DNAT --to-destination 10.9.9.9:80"
LINES = ["+ nat: -A LB-S-web -j <b>", LONG]


@pytest.fixture
def node(site: Site) -> Node:
    """It differs since a moment ago, and the policy asks people first."""
    site.deploy(service_data("web"))
    Cluster.objects.update(on_drift="ask")
    Node.objects.filter(name="lb1").update(in_sync=False, checked_at=timezone.now())
    node = Node.objects.get(name="lb1")
    report(node)
    return node


def report(node: Node, kind: str = "rules", **fields: object) -> DriftEvent:
    now = timezone.now()
    values = {"lines": LINES, "left_out": 7, "culprits": "Probably firewalld."} | fields
    revision = live_revision(node.cluster)
    return DriftEvent.objects.create(
        node=node, kind=kind, revision=revision, seen_at=now, changed_at=now, **values
    )


def address_of(node: Node, page: str = "change") -> str:
    return f"/balancer/node/{node.pk}/{page}/"


def page_of(login: Login, user: User, address: str) -> str:
    return login(user).get(address).content.decode()


def test_the_page_of_the_node_shows_the_lines_since_when_and_what_becomes_of_it(
    node: Node, login: Login, viewer: User
) -> None:
    page = page_of(login, viewer, address_of(node))
    assert "The kernel differs from revision 1 in 9 lines" in page
    assert "nat: -A LB-S-web -j &lt;b&gt;" in page
    assert "7 more" in page
    assert "leaves it to people" in page
    assert "Probably firewalld." in page
    assert "put-back" not in page, "the button is for operators"


@pytest.mark.parametrize(
    "address", ["/", "/balancer/cluster/{cluster}/change/", "/balancer/service/{service}/operate/"]
)
def test_other_pages_say_it_too_with_the_button_of_operators(
    address: str, node: Node, site: Site, login: Login, operator: User, viewer: User
) -> None:
    found = address.format(cluster=site.cluster.pk, service=site.cluster.services.get().pk)
    for person, may in ((operator, True), (viewer, False)):
        page = page_of(login, person, found)
        assert "The kernel of lb1 differs in 9 lines." in page
        assert (f'action="{address_of(node, "put-back")}"' in page) is may


def test_an_operator_asks_for_ours_and_sees_that_it_was_asked_for(
    node: Node, login: Login, operator: User
) -> None:
    client = login(operator)
    event = DriftEvent.objects.get()
    assert "Put ours back" in client.get(address_of(node)).content.decode()

    response = client.post(address_of(node, "put-back"), {"event": event.pk}, follow=True)

    page = response.content.decode()
    assert "as soon as it is free" in messages_of(response)
    assert "operator asked for it to be put right" in page
    assert '<button class="lb-button lb-button--primary"' not in page
    event.refresh_from_db()
    assert (event.asked_by, event.job.state) == (operator, "queued")


@pytest.mark.parametrize("sent", ["", "x", "999", "-1", "9" * 30])
def test_an_event_that_is_not_there_is_refused_in_words(
    sent: str, node: Node, login: Login, operator: User
) -> None:
    response = login(operator).post(address_of(node, "put-back"), {"event": sent}, follow=True)
    assert "does not report that any more" in messages_of(response)
    assert DriftEvent.objects.get().asked_at is None


def test_whoever_only_looks_cannot_ask(node: Node, login: Login, viewer: User) -> None:
    event = DriftEvent.objects.get()
    login(viewer).post(address_of(node, "put-back"), {"event": event.pk})
    event.refresh_from_db()
    assert event.asked_at is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "puts it back at its next look"),
        ({"held_until": timezone.now()}, "was put back several times within an hour"),
    ],
)
def test_where_the_node_puts_ours_back_itself_it_says_when(
    fields: dict[str, object], words: str, node: Node, login: Login, viewer: User
) -> None:
    Cluster.objects.update(on_drift="mend")
    DriftEvent.objects.update(**fields)
    assert words in page_of(login, viewer, address_of(node))


def test_what_could_not_be_put_back_says_why(node: Node, site: Site, login: Login, operator: User) -> None:
    Cluster.objects.update(on_drift="mend")
    event = put_ours_back(actor=operator, node=node, event_id=DriftEvent.objects.get().pk)
    DriftEvent.objects.update(asked_at=None, asked_by=None)
    DriftEvent.objects.get().job.__class__.objects.filter(drift_events=event).update(
        state="failed", error="The xtables lock was held."
    )
    assert "It could not be put back: The xtables lock was held." in page_of(
        login, operator, address_of(node)
    )


def test_during_a_deployment_it_says_that_it_waits(
    node: Node, site: Site, login: Login, viewer: User
) -> None:
    site.start(service_data("dns", protocol="udp", port=53))
    assert "What still differs afterwards" in page_of(login, viewer, address_of(node)).replace("what", "What")


def test_what_an_earlier_lbadmin_compiled_has_no_button(site: Site, login: Login, operator: User) -> None:
    with earlier_lbadmin():
        site.deploy(service_data("web"))
    node = Node.objects.get(name="lb1")
    report(node)
    page = page_of(login, operator, address_of(node))
    assert "only be put right by applying a change" in page
    assert "Put ours back" not in page


def test_rules_of_others_before_ours_have_a_button_of_their_own(
    node: Node, login: Login, operator: User
) -> None:
    DriftEvent.objects.all().delete()
    check = {"id": "forward-behind-others", "message": "In FORWARD there is another one."}
    Node.objects.update(in_sync=True, facts={"checks": [check, {"id": "x", "message": "Something else."}]})
    report(node, kind="order", lines=["filter: -A FORWARD -s 203.0.113.9/32 -j DROP"], left_out=0)
    page = page_of(login, operator, address_of(node))
    assert "Rules of others come before ours" in page
    assert "Put ours first" in page
    assert "Something else." in page
    assert "In FORWARD there is another one." not in page, "said once is enough"


def test_what_is_over_stays_in_the_history_of_the_node(
    node: Node, login: Login, viewer: User, operator: User
) -> None:
    Node.objects.update(in_sync=True)
    DriftEvent.objects.update(ended_at=timezone.now(), how="asked", asked_by=operator)
    page = page_of(login, viewer, address_of(node))
    assert "The kernel carries what it should." in page
    assert "9 lines differed" in page
    assert "Put back because operator asked for it." in page


def test_rules_beside_ours_are_shown_and_nobody_is_offered_to_put_ours_first(
    node: Node, login: Login, operator: User
) -> None:
    DriftEvent.objects.all().delete()
    Node.objects.filter(pk=node.pk).update(in_sync=True)
    event = report(node, "order", lines=["nft inet filter forward: policy drop"], left_out=0)
    page = page_of(login, operator, address_of(node))
    assert "Rules of others decide too" in page
    assert "nft inet filter forward: policy drop" in page
    assert address_of(node, "put-back") not in page
    with pytest.raises(Refused) as refusal:
        put_ours_back(actor=operator, node=node, event_id=event.pk)
    assert refusal.value.code == "beside"
