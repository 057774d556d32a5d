"""Every kind of page, on a desk and on a phone, light and dark: nothing cut, nothing off the screen, and
nothing that keeps people with other eyes or hands out."""

import re
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Page, expect

from tests.browser.conftest import Console, Person
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


def test_every_page_fits_and_keeps_nobody_out(console: Console, person: Person) -> None:
    editor, operator, administrator = person("editor"), person("operator"), person("administrator")
    reviewed, approved = make_something_to_see(console, person, editor, operator, administrator)
    wrong = look_as(person(""), {"login": "/login/"})
    wrong += look_as(editor, editors_pages(editor))
    wrong += look_as(administrator, reviewers_pages(administrator) | {"review": reviewed})
    wrong += look_as(operator, operators_pages() | {"approved": approved})
    wrong += look_at_times(operator, administrator, approved)
    assert not wrong, "\n".join(wrong)


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


def make_something_to_see(
    console: Console, person: Person, editor: Page, operator: Page, administrator: Page
) -> tuple[str, str]:
    """The addresses of a change in review and of an approved one. Beside them there are a draft change with a
    modified and two new services, a rollback, an override, and an emergency; nobody has signed these."""
    new_service(administrator, "metrics.internal-collector", 9090)
    declare_emergency(
        console, administrator, administrator.url, reason="The collector is gone, and so are its graphs."
    )
    expect(administrator.locator(".lb-head").get_by_text("Applied")).to_be_visible(timeout=30_000)
    open_form(editor, "web")
    description = "The shop's front page, moved to the new machines one after the other"
    editor.get_by_label("Description").first.fill(description)
    save(editor)
    reviewed = submit(editor)
    new_service(editor, "night", 8088)
    approved = submit(editor)
    for name, port in (("dns", 53), ("a-service.with-a-rather-long-name-of-its-own", 5353)):
        new_service(editor, name, port, weights=(1, 1, 1))
    open_form(editor, "web")
    set_weight(editor, 5)
    save(editor)
    operator.goto("/balancer/revision/")
    operator.get_by_role("link", name=re.compile(r"^demo 0$")).click()
    operator.get_by_role("button", name="Roll back to this").click()
    approver = person("approver")
    approve(approver, console, approved, by="approver")
    approver.goto(reviewed)
    wait_for_rehearsal(approver)
    reason = "Its disk is full, and the machine is replaced this afternoon."
    operate(operator, "web", "Disable", reason=reason)
    return reviewed, approved


def look_at_times(operator: Page, administrator: Page, approved: str) -> list[str]:
    """A window that ends before it begins, one that is to come, and a freeze in which it lies."""
    schedule(operator, approved, begin=TOMORROW, minutes=-10)
    expect(operator.get_by_text("The end has to come after the start.").first).to_be_visible()
    wrong = look_around(operator, "schedule-wrong")
    schedule(operator, approved, begin=TOMORROW)
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
        "import": "/balancer/service/import/",
        "password": "/password_change/",
    }


def reviewers_pages(page: Page) -> dict[str, str]:
    page.goto("/balancer/change/?kind__exact=rollback&state__exact=draft")
    rollback = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    page.goto("/balancer/auditevent/?action=job.succeeded")
    event = page.locator(".result-list a.lb-plain").first.get_attribute("href")
    assert rollback is not None
    assert event is not None
    return {
        "dashboard-administrator": "/",
        "rollback": rollback,
        "revisions": "/balancer/revision/",
        "revision": "/balancer/revision/2/change/",
        "revision-services": "/balancer/revision/1/change/",
        "applied": "/balancer/change/1/change/",
        "emergency": "/balancer/change/2/change/",
        "compare": "/balancer/revision/compare/?from=1&to=2",
        "clusters": "/balancer/cluster/",
        "cluster": "/balancer/cluster/1/change/",
        "nodes": "/balancer/node/",
        "node": "/balancer/node/1/change/",
        "node-new": "/balancer/node/add/",
        "audit": "/balancer/auditevent/",
        "event": event,
        "late-reviews": "/balancer/latereview/",
        "late-review": "/balancer/latereview/1/change/",
        "late-review-override": "/balancer/latereview/2/change/",
        "origin": "/balancer/revision/2/origin/?service=web",
        "seen": "/balancer/review/1/change/",
        "policy": "/balancer/cluster/1/policy/",
        "operation": "/balancer/cluster/1/operation/",
        "freeze": "/balancer/cluster/1/freeze/",
        "users": "/auth/user/",
        "roles": "/auth/group/",
    }


def operators_pages() -> dict[str, str]:
    return {
        "dashboard-operator": "/",
        "operate": "/balancer/service/1/operate/",
        "service": "/balancer/service/1/change/",
        "late-review-operator": "/balancer/latereview/1/change/",
        "node-operator": "/balancer/node/1/change/",
    }
