"""Every kind of page, on a desk and on a phone, light and dark: nothing cut, nothing off the screen, and
nothing that keeps people with other eyes or hands out."""

import re

from playwright.sync_api import Page, expect

from tests.browser.conftest import Console, Person
from tests.browser.pictures import find_barriers, look_at
from tests.browser.steps import operate

THEMES = ("light", "dark")
WIDE, NARROW = ({"width": width, "height": 900} for width in (1440, 390))


def test_every_page_fits_and_keeps_nobody_out(console: Console, person: Person) -> None:
    make_something_to_see(person("editor"), person("operator"))
    wrong = look_as(person(""), {"login": "/login/"})
    editor, reviewer = person("editor"), person("administrator")
    wrong += look_as(editor, editors_pages(editor))
    wrong += look_as(reviewer, reviewers_pages(reviewer))
    assert not wrong, "\n".join(wrong)


def make_something_to_see(editor: Page, operator: Page) -> None:
    """A change in review, a draft with a modified, a new and a deleted service, a rollback, an override."""
    edit(editor, "web", "Description", "The shop's front page, moved to the new machines one after the other")
    editor.get_by_role("button", name="Submit for review").click()
    # The page loads itself anew when the rehearsal is over; nobody looks at it before that.
    expect(editor.get_by_text("Loaded cleanly").first).to_be_visible(timeout=60_000)
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
    operate(
        operator, "web", "Disable", reason="Its disk is full, and the machine is replaced this afternoon."
    )


def edit(page: Page, service: str, field: str, value: str) -> None:
    page.goto("/balancer/service/")
    page.get_by_role("link", name=service, exact=True).click()
    page.get_by_label(field).first.fill(value)
    page.get_by_role("button", name="Save as draft").click()


def look_as(page: Page, addresses: dict[str, str]) -> list[str]:
    """Each page is loaded once in each theme, and narrowed where it stands."""
    wrong = []
    for name, address in addresses.items():
        for theme in THEMES:
            page.set_viewport_size(WIDE)
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            page.goto(address)
            if name == "form":
                page.locator("#preview .lb-code").wait_for()
            wrong += look_at(page, f"{name}-1440-{theme}")
            # A page differs from one theme to the other in its colours only.
            only = ("color-contrast",) if theme == "dark" else ()
            wrong += find_barriers(page, f"{name}-1440-{theme}", only=only)
            page.set_viewport_size(NARROW)
            wrong += look_at(page, f"{name}-390-{theme}")
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
        "overrides": "/balancer/override/",
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
        "operate": "/balancer/service/1/operate/",
        "late-reviews": "/balancer/latereview/",
        "late-review": "/balancer/latereview/1/change/",
        "origin": "/balancer/revision/2/origin/?service=web",
        "seen": "/balancer/review/1/change/",
        "policy": "/balancer/cluster/1/policy/",
        "operation": "/balancer/cluster/1/operation/",
        "freeze": "/balancer/cluster/1/freeze/",
        "users": "/auth/user/",
        "roles": "/auth/group/",
    }
