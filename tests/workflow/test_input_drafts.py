"""Rules of INPUT as a draft of access lists: exactly what was shown, in the change that was chosen."""

from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from django.contrib.auth.models import User

from balancer.domain import service_laws
from balancer.domain.observation import InputPath, InputRule, Observation
from balancer.domain.problem import Problem
from balancer.domain.types import Service
from balancer.models import AuditEvent, Change, Draft, Node
from balancer.workflow.documents import Data
from balancer.workflow.drafts import SavedDraft
from balancer.workflow.editing import open_change
from balancer.workflow.input_drafts import Offer, draft_equivalent, offers_for, service_shown
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import refusal_of


@pytest.fixture
def web(site: Site) -> Site:
    """The service web is live, and INPUT of lb1 drops a network."""
    site.deploy(service_data("web"))
    see(drop("203.0.113.0/24"))
    return site


def drop(network: str) -> InputRule:
    text = f"-A INPUT -s {network} -j DROP"
    return InputRule(text=text, chain="INPUT", verdict="DROP", source=ip_network(network))


def see(*rules: InputRule) -> None:
    seen = Observation(inputs=(InputPath(flavour="nft", rules=rules),))
    Node.objects.filter(name="lb1").update(observation=seen.to_data())


def offer(site: Site, change: Change | None = None) -> Offer:
    service = service_shown(cluster=site.cluster, name="web", change=change)
    assert service is not None
    (found,) = offers_for(cluster=site.cluster, service=service)
    return found


def draft(site: Site, change: Change | None = None, **fields: object) -> SavedDraft:
    values = {"actor": site.author, "name": "web", "node": "lb1", "token": offer(site, change).token}
    return draft_equivalent(cluster=site.cluster, change=change, **values | fields)


def after(saved: SavedDraft) -> Data:
    assert saved.draft is not None
    return saved.draft.after


def test_only_nodes_that_were_looked_at_offer_anything(web: Site) -> None:
    found = offer(web)
    assert (found.node, list(map(str, found.equivalent.deny))) == ("lb1", ["203.0.113.0/24"])


def test_it_goes_into_a_new_change_that_says_what_it_is(web: Site) -> None:
    saved = draft(web)
    assert after(saved)["access"]["deny"] == ["203.0.113.0/24"]
    assert saved.change is not None
    assert (saved.change.title, saved.change.author) == ("Rules of INPUT on lb1 for web", web.author)
    assert AuditEvent.objects.filter(action="draft.saved", actor_name="author").count() == 2


def test_it_goes_into_the_chosen_change_on_top_of_what_is_drafted_there(web: Site) -> None:
    change = web.change(service_data("web", description="edited"))
    saved = draft(web, change)
    assert saved.change == change
    assert (after(saved)["description"], after(saved)["access"]["deny"]) == ("edited", ["203.0.113.0/24"])
    assert Draft.objects.filter(change=change).count() == 1


def test_it_is_offered_for_a_service_that_is_only_a_draft(web: Site) -> None:
    change = web.change(service_data("new", port=81))
    service = service_shown(cluster=web.cluster, name="new", change=change)
    assert service is not None
    (found,) = offers_for(cluster=web.cluster, service=service)
    assert after(draft(web, change, name="new", token=found.token))["access"]["deny"] == ["203.0.113.0/24"]


def test_what_is_saved_is_what_was_shown(web: Site) -> None:
    seen = offer(web).token
    see(drop("203.0.113.0/24"), drop("192.0.2.0/24"))
    refusal = refusal_of(lambda: draft(web, token=seen))
    assert refusal.code == "conflict"
    assert not Draft.objects.filter(change__state="draft").exists()


def test_twice_is_once(web: Site) -> None:
    change = draft(web).change
    assert change is not None
    assert refusal_of(lambda: draft(web, change)).code == "nothing"


def test_what_is_not_there_is_refused(web: Site) -> None:
    for fields in ({"name": "none"}, {"node": "lb2"}, {"token": ""}):
        refusal = refusal_of(lambda fields=fields: draft(web, **fields))
        assert (fields, refusal.code) == (fields, "conflict")
    assert not Change.objects.filter(state="draft").exists()


def test_nobody_drafts_without_the_right_to(web: Site, viewer: User, stranger: User) -> None:
    for person in (web.approver, web.operator, viewer, stranger):
        refusal = refusal_of(lambda person=person: draft(web, actor=person))
        assert (person, refusal.code) == (person, "forbidden")
    assert not Change.objects.filter(state="draft").exists()


def test_nobody_drafts_in_a_change_of_somebody_else(web: Site, administrator: User) -> None:
    change = open_change(actor=web.author, cluster=web.cluster, title="Mine")
    assert refusal_of(lambda: draft(web, change, actor=administrator)).code == "not-invited"


def test_a_draft_that_cannot_be_saved_leaves_no_empty_change(
    web: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(service: Service) -> Iterator[Problem]:
        if service.access.deny:
            yield Problem("access.deny[0]", "no", "Not today.")

    monkeypatch.setattr(service_laws, "_CHECKS", (refuse,))
    refusal = refusal_of(lambda: draft(web))
    assert (refusal.code, refusal.message) == ("invalid", "Not today.")
    assert not Change.objects.filter(state="draft").exists()
