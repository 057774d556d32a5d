"""Every kind of page, on a desk and on a phone, light and dark: nothing cut, nothing off the screen, and
nothing that keeps people with other eyes or hands out."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Console, Person, seats
from tests.browser.pictures import find_barriers, look_around, look_as
from tests.browser.steps import (
    approve,
    declare_emergency,
    declare_freeze,
    lift_freeze,
    new_service,
    open_form,
    operate,
    save,
    schedule,
    set_weight,
    submit,
    wait_for_rehearsal,
)

TOMORROW = datetime.now(UTC) + timedelta(days=1)


@dataclass(frozen=True)
class Proposed:
    """Addresses of two changes."""

    reviewed: str
    approved: str


@pytest.fixture(scope="module")
def proposed(browser: Browser, console: Console) -> Proposed:
    """Beside these there are a draft change with a modified and two new services, a rollback, an override and
    an emergency; nobody has signed the last two."""
    with seats(browser, console) as person:
        declare_one_emergency(console, person("administrator"))
        editor, approver = person("editor"), person("approver")
        proposed = propose_some_changes(editor)
        prepare_a_rollback(person("operator"))
        approve(approver, console, proposed.approved, by="approver")
        approver.goto(proposed.reviewed)
        wait_for_rehearsal(approver)
        reason = "Its disk is full, and the machine is replaced this afternoon."
        operate(person("operator"), "web", "Disable", reason=reason)
        return proposed


def test_an_authors_pages_fit_and_keep_nobody_out(person: Person, proposed: Proposed) -> None:
    editor = person("editor")
    assert look_as(person(""), {"login": "/login/"}) == []
    assert look_as(editor, editors_pages(editor)) == []


def test_an_approvers_pages_fit_and_keep_nobody_out(person: Person, proposed: Proposed) -> None:
    page = person("administrator")
    assert look_as(page, approvers_pages(page) | {"review": proposed.reviewed}) == []


def test_an_administrators_pages_fit_and_keep_nobody_out(person: Person, proposed: Proposed) -> None:
    assert look_as(person("administrator"), ADMINISTRATORS_PAGES) == []


def test_an_operators_pages_fit_and_keep_nobody_out(person: Person, proposed: Proposed) -> None:
    assert look_as(person("operator"), OPERATORS_PAGES | {"approved": proposed.approved}) == []


def test_the_demos_own_traffic_is_counted_and_plotted(person: Person, proposed: Proposed) -> None:
    page = person("viewer")
    for _ in range(30):
        page.goto("/balancer/service/1/traffic/")
        if page.get_by_text(re.compile(r"^[1-9]\d* connections$")).count():
            break
        page.wait_for_timeout(1000)
    expect(page.get_by_text(re.compile(r"^[1-9]\d* connections$")).first).to_be_visible()
    expect(page.locator("[data-plot=new] canvas")).to_be_visible()
    expect(page.locator("[data-plot=fair] canvas")).to_be_visible()


def test_windows_and_freezes_are_shown_where_they_matter(person: Person, proposed: Proposed) -> None:
    assert look_at_times(person("operator"), person("administrator"), proposed.approved) == []


def test_what_was_typed_wrongly_is_said_where_it_stands(console: Console, person: Person) -> None:
    page = person("administrator")
    page.goto("/balancer/cluster/1/freeze/")
    page.get_by_role("button", name="Declare freeze").click()
    expect(page.get_by_text("Say why, so that those who wait know.")).to_be_visible()
    wrong = look_around(page, "freeze-wrong")
    page.goto("/balancer/cluster/1/operation/")
    page.get_by_label("Seconds to confirm").fill("1")
    page.get_by_label("Hours between rollback drills").fill("often")
    page.get_by_role("button", name="Save policy").click()
    expect(page.locator("#id_confirm_seconds_error")).to_be_visible()
    wrong += look_around(page, "operation-wrong")
    assert not wrong, "\n".join(wrong)


def test_a_page_is_dark_where_dark_is_preferred(person: Person) -> None:
    page = person("viewer", theme="dark")
    expect(page.locator("html.dark")).to_have_count(1)
    assert find_barriers(page, "dark", only=("color-contrast",)) == []


def declare_one_emergency(console: Console, page: Page) -> None:
    new_service(page, "metrics.internal-collector", 9090)
    declare_emergency(console, page, page.url, reason="The collector is gone, and so are its graphs.")
    expect(page.locator(".lb-head").get_by_text("Applied")).to_be_visible(timeout=30_000)


def propose_some_changes(page: Page) -> Proposed:
    open_form(page, "web")
    description = "The shop's front page, moved to the new machines one after the other"
    page.get_by_label("Description").first.fill(description)
    save(page)
    reviewed = submit(page)
    new_service(page, "evening", 8088)
    approved = submit(page)
    for name, port in (("dns", 53), ("a-service.with-a-rather-long-name-of-its-own", 5353)):
        new_service(page, name, port, weights=(1, 1, 1))
    open_form(page, "web")
    set_weight(page, 5)
    save(page)
    return Proposed(reviewed=reviewed, approved=approved)


def prepare_a_rollback(page: Page) -> None:
    page.goto("/balancer/revision/")
    page.get_by_role("link", name=re.compile(r"^demo 0$")).click()
    page.get_by_role("button", name="Roll back to this").click()
    expect(page.get_by_text("was prepared")).to_be_visible()


def look_at_times(operator: Page, administrator: Page, approved: str) -> list[str]:
    """A window that ends before it begins, one that is to come, and a freeze in which it lies."""
    schedule(operator, approved, begin=TOMORROW, minutes=-10)
    expect(operator.get_by_text("The end has to come after the start.").first).to_be_visible()
    wrong = look_around(operator, "schedule-wrong")
    schedule(operator, approved, begin=TOMORROW)
    expect(operator.get_by_text("Scheduled by operator to begin between")).to_be_visible()
    operator.goto("/")
    expect(operator.get_by_text("is scheduled to begin between")).to_be_visible()
    declare_freeze(administrator, reason="The yearly sale: nobody touches anything.", hours=48)
    try:
        pages = {"scheduled": approved, "dashboard-frozen": "/"}
        wrong += look_as(operator, pages)
        wrong += look_as(administrator, {"cluster-frozen": "/balancer/cluster/1/change/"})
    finally:
        lift_freeze(administrator)
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
        "input": "/balancer/service/input/1/?name=web",
        "import": "/balancer/service/import/",
        "password": "/password_change/",
    }


def approvers_pages(page: Page) -> dict[str, str]:
    page.goto("/balancer/change/?kind__exact=rollback&state__exact=draft")
    rollback = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    page.goto("/balancer/auditevent/?action=job.succeeded")
    event = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    assert rollback is not None
    assert event is not None
    return {
        "rollback": rollback,
        "revisions": "/balancer/revision/",
        "revision": "/balancer/revision/2/change/",
        "revision-services": "/balancer/revision/1/change/",
        "compare": "/balancer/revision/compare/?from=1&to=2",
        "applied": "/balancer/change/1/change/",
        "emergency": "/balancer/change/2/change/",
        "audit": "/balancer/auditevent/",
        "event": event,
        "late-reviews": "/balancer/latereview/",
        "late-review": "/balancer/latereview/1/change/",
        "late-review-override": "/balancer/latereview/2/change/",
        "origin": "/balancer/revision/2/origin/?service=web",
        "seen": "/balancer/review/1/change/",
    }


ADMINISTRATORS_PAGES = {
    "dashboard-administrator": "/",
    "clusters": "/balancer/cluster/",
    "cluster": "/balancer/cluster/1/change/",
    "policy": "/balancer/cluster/1/policy/",
    "operation": "/balancer/cluster/1/operation/",
    "freeze": "/balancer/cluster/1/freeze/",
    "nodes": "/balancer/node/",
    "node": "/balancer/node/1/change/",
    "node-new": "/balancer/node/add/",
    "users": "/auth/user/",
    "roles": "/auth/group/",
}
OPERATORS_PAGES = {
    "dashboard-operator": "/",
    "operate": "/balancer/service/1/operate/",
    "service": "/balancer/service/1/change/",
    "traffic": "/balancer/service/1/traffic/",
    "late-review-operator": "/balancer/latereview/1/change/",
    "node-operator": "/balancer/node/1/change/",
}
