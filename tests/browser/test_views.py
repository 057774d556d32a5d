"""Every kind of page, on a desk and on a phone, light and dark: nothing cut, nothing off the screen, and
nothing that keeps people with other eyes or hands out."""

import re

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Console, Person
from tests.browser.pictures import find_barriers, look_at

SIZES = (1440, 390)
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def drafted() -> set[str]:
    """What the module's pages have been given to show; the drafts are made once, by the first test."""
    return set()


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("theme", THEMES)
def test_every_page_fits_and_keeps_nobody_out(
    width: int, theme: str, console: Console, person: Person, drafted: set[str]
) -> None:
    if not drafted:
        make_something_to_see(person("editor"), person("operator"))
        drafted.add("done")
    wrong = look_as(person("", width=width, theme=theme), {"login": "/login/"}, f"{width}-{theme}")
    editor, reviewer = (person(name, width=width, theme=theme) for name in ("editor", "administrator"))
    wrong += look_as(editor, editors_pages(editor), f"{width}-{theme}")
    wrong += look_as(reviewer, reviewers_pages(reviewer), f"{width}-{theme}")
    assert not wrong, "\n".join(wrong)


def make_something_to_see(editor: Page, operator: Page) -> None:
    """A change in review, a draft with a modified, a new and a deleted service, and a rollback."""
    edit(editor, "web", "Description", "The shop's front page, moved to the new machines one after the other")
    editor.get_by_role("button", name="Submit for review").click()
    for name, port in (("metrics.internal-collector", "9090"), ("dns", "53")):
        editor.goto("/balancer/service/add/")
        editor.get_by_label("Name").fill(name)
        editor.get_by_label("Interface").fill("eth0")
        editor.locator("#id_port").fill(port)
        for number, last in enumerate((3, 4, 5)):
            if number:
                editor.get_by_role("button", name="Add backend").click()
            editor.locator("[data-row]").nth(number).get_by_label("Address").fill(f"10.0.0.{last}")
        editor.get_by_role("button", name="Save as draft").click()
    edit(editor, "web", "Weight", "5")
    operator.goto("/balancer/revision/")
    operator.get_by_role("link", name=re.compile(r"^demo 0$")).click()
    operator.get_by_role("button", name="Roll back to this").click()


def edit(page: Page, service: str, field: str, value: str) -> None:
    page.goto("/balancer/service/")
    page.get_by_role("link", name=service, exact=True).click()
    page.get_by_label(field).first.fill(value)
    page.get_by_role("button", name="Save as draft").click()


def look_as(page: Page, addresses: dict[str, str], what: str) -> list[str]:
    wrong = []
    for name, address in addresses.items():
        page.goto(address)
        if name == "form":
            page.locator("#preview .lb-code").wait_for()
        wrong += look_at(page, f"{name}-{what}")
        if what.startswith("1440"):
            wrong += find_barriers(page, f"{name}-{what}")
    return wrong


def editors_pages(page: Page) -> dict[str, str]:
    page.goto("/balancer/change/")
    change = page.get_by_role("link", name="Changes by editor").first.get_attribute("href")
    page.goto("/balancer/service/")
    service = page.get_by_role("link", name="web", exact=True).get_attribute("href")
    assert change is not None
    assert service is not None
    return {
        "dashboard": "/",
        "services": "/balancer/service/",
        "services-none": "/balancer/service/?q=nothing-like-this",
        "form": service,
        "form-new": "/balancer/service/add/",
        "delete": service.replace("/change/", "/delete/"),
        "change": change,
        "changes": "/balancer/change/",
        "editing": "/balancer/service/editing/",
        "several": "/balancer/service/several/?id=1",
        "import": "/balancer/service/import/",
        "password": "/password_change/",
    }


def reviewers_pages(page: Page) -> dict[str, str]:
    page.goto("/balancer/change/?state__exact=submitted")
    review = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    page.goto("/balancer/change/?kind__exact=rollback&state__exact=draft")
    rollback = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    page.goto("/balancer/auditevent/?action=job.succeeded")
    event = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    assert review is not None
    assert rollback is not None
    assert event is not None
    return {
        "dashboard-administrator": "/",
        "review": review,
        "rollback": rollback,
        "revisions": "/balancer/revision/",
        "revision": "/balancer/revision/2/change/",
        "compare": "/balancer/revision/compare/?from=1&to=2",
        "clusters": "/balancer/cluster/",
        "cluster": "/balancer/cluster/1/change/",
        "nodes": "/balancer/node/",
        "node": "/balancer/node/1/change/",
        "node-new": "/balancer/node/add/",
        "audit": "/balancer/auditevent/",
        "event": event,
        "origin": "/balancer/revision/2/origin/?service=web",
        "seen": "/balancer/review/1/change/",
        "policy": "/balancer/cluster/1/policy/",
        "operation": "/balancer/cluster/1/operation/",
        "users": "/auth/user/",
        "roles": "/auth/group/",
    }
