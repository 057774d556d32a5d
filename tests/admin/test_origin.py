"""Who let this through? From a live service, a revision or a rule to the people and to what they saw."""

import re

from django.contrib.auth.models import User
from django.urls import reverse

from balancer.models import Review, Revision, Service
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import save_draft
from balancer.workflow.editing import invite_person
from balancer.workflow.queries import find_origin
from tests.admin.conftest import Login, heavier
from tests.cast import Site, make_person
from tests.documents import service_data


def origin_page(revision: Revision, service: str = "") -> str:
    return reverse("admin:balancer_revision_origin", args=[revision.pk]) + (
        f"?service={service}" if service else ""
    )


def test_the_answer_names_author_approver_and_who_applied_it(site: Site, web: Service, login: Login) -> None:
    revision = site.deploy(heavier())

    page = login(site.operator).get(origin_page(revision, "web")).content.decode()

    people = re.findall(
        r'<th scope="row">([^<]+)</th><td data-label="Who" class="lb-strong">(?:<div>)?(\w+)', page
    )
    assert people == [
        ("Author", "author"),
        ("Contributor", "author"),
        ("Submitted by", "author"),
        ("Approver", "approver"),
        ("Applied by", "operator"),
    ]


def test_a_service_leads_to_the_change_that_touched_it_last_and_not_to_a_later_one(
    site: Site, web: Service
) -> None:
    brought = site.deploy(heavier())
    later = site.deploy(service_data("mail", port=25))

    assert find_origin(revision=later, service="web").revision == brought
    assert find_origin(revision=later, service="mail").revision == later
    assert find_origin(revision=later).revision == later
    assert find_origin(revision=Revision.objects.get(number=1), service="web").revision.number == 1


def test_a_failed_attempt_is_no_origin(site: Site, web: Service) -> None:
    live = Revision.objects.get(number=1)
    site.start(heavier())

    assert find_origin(revision=Revision.objects.get(number=2), service="web").revision == live


def test_what_the_approver_saw_is_one_click_away_and_is_what_it_was(
    site: Site, web: Service, login: Login
) -> None:
    revision = site.deploy(heavier())
    client = login(site.operator)
    review = Review.objects.latest("pk")
    site.deploy(service_data("web", port=81))

    assert (
        reverse("admin:balancer_review_change", args=[review.pk])
        in client.get(origin_page(revision, "web")).content.decode()
    )
    page = client.get(reverse("admin:balancer_review_change", args=[review.pk])).content.decode()
    assert "1/2 · 50\N{NO-BREAK SPACE}%" in page
    assert "-A LB-S-web" in page
    assert review.digest in page


def test_every_rule_of_a_service_leads_to_the_answer(site: Site, web: Service, login: Login) -> None:
    revision = Revision.objects.get(number=1)

    page = (
        login(site.operator)
        .get(reverse("admin:balancer_revision_change", args=[revision.pk]))
        .content.decode()
    )

    links = re.findall(r'<a class="lb-line lb-line--owned" href="([^"]+)"[^>]*>([^<]+)</a>', page)
    assert {address for address, _ in links} == {origin_page(revision, "web")}
    assert sum("DNAT --to-destination" in rule for _, rule in links) == 4


def test_a_live_service_leads_to_the_answer(site: Site, web: Service, login: Login, viewer: User) -> None:
    for person in (site.author, viewer):
        page = login(person).get(reverse("admin:balancer_service_change", args=[web.pk])).content.decode()

        assert origin_page(Revision.objects.get(number=1), "web") in page


def test_the_answer_survives_the_account(site: Site, web: Service, login: Login) -> None:
    """Names are kept as text: an account that is renamed stays who it was."""
    revision = site.deploy(heavier())
    site.approver.username = "somebody-else"
    site.approver.save()

    assert [deed.person for deed in find_origin(revision=revision, service="web").approved] == ["approver"]


def test_a_service_that_is_not_in_the_revision_is_answered(site: Site, web: Service, login: Login) -> None:
    response = login(site.operator).get(origin_page(Revision.objects.get(number=1), "nobody"), follow=True)

    assert "has no service of that name" in response.content.decode()


def test_contributors_are_named_beside_the_author(site: Site, web: Service, login: Login) -> None:
    helper = make_person("helper", "Editor")
    change = site.change(heavier())
    invite_person(actor=site.author, change=change, username="helper")
    save_draft(actor=helper, cluster=site.cluster, change=change, data=service_data("mail", port=25))
    revision = site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert [deed.person for deed in find_origin(revision=revision).edited] == ["author", "helper"]
