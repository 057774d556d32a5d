"""What people do in the console, step by step, each in a browser of their own."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Error, Page, expect

from tests.browser.conftest import Console

_TAKEN_BACK = ("interrupted by another navigation", "net::ERR_ABORTED")


def go(page: Page, address: str) -> None:
    """Go there, also where the page has just begun to load itself anew because its deployment has ended."""
    for _ in range(5):
        try:
            page.goto(address)
            return
        except Error as error:
            if not any(words in error.message for words in _TAKEN_BACK):
                raise
            page.wait_for_load_state()
    pytest.fail(f"The page loads itself anew again and again instead of going to {address}.")


def load_anew(page: Page) -> None:
    """Reload, also where the page does so itself in the same moment: the browser then ends one of the two."""
    try:
        page.reload()
    except Error as error:
        if "ERR_ABORTED" not in error.message and "interrupted by another navigation" not in error.message:
            raise
        page.wait_for_load_state("networkidle")


def new_service(
    page: Page,
    name: str,
    port: int,
    *,
    weights: tuple[int, ...] = (3, 1),
    also: Callable[[Page], None] | None = None,
) -> None:
    """A draft of a service on eth0 with backends 10.0.0.3, 10.0.0.4 …; ends on the page of the change.

    `also` fills in more of the form.
    """
    go(page, "/balancer/service/add/")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Interface").fill("eth0")
    page.locator("#id_port").fill(str(port))
    for number, weight in enumerate(weights):
        if number:
            page.get_by_role("button", name="Add backend").click()
        row = page.locator("[data-row]").nth(number)
        row.get_by_label("Address").fill(f"10.0.0.{3 + number}")
        row.get_by_label("Port").fill("80")
        row.get_by_label("Weight").fill(str(weight))
    if also is not None:
        also(page)
    save(page)


def open_form(page: Page, service: str) -> None:
    """The form of a live service."""
    go(page, f"/balancer/service/?q={service}")
    page.get_by_role("link", name=service, exact=True).click()


def set_weight(page: Page, weight: int, *, row: int = 0) -> None:
    page.locator("[data-row]").nth(row).get_by_label("Weight").fill(str(weight))


def save(page: Page) -> None:
    page.get_by_role("button", name="Save as draft").click()
    expect(page.get_by_text("Saved as a draft")).to_be_visible()


def name_it(page: Page, title: str) -> None:
    page.get_by_text("Edit title and description").click()
    page.get_by_label("Title").fill(title)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("heading", name=title)).to_be_visible()


def submit(page: Page) -> str:
    """From the page of a draft change into review; the address of the page."""
    page.get_by_role("button", name="Submit for review").click()
    expect(page.locator(".lb-head").get_by_text("In review")).to_be_visible()
    return page.url


def approve(page: Page, console: Console, address: str, *, by: str) -> None:
    go(page, address)
    wait_for_rehearsal(page)
    password = page.get_by_label("Your password, to approve")
    if password.count():
        password.fill(console.passwords[by])
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Your approval is recorded.")).to_be_visible()


def wait_for_rehearsal(page: Page) -> None:
    """On the page of a change under review, of an approver: the button comes when it has passed."""
    expect(page.get_by_role("button", name="Approve")).to_be_visible(timeout=60_000)


def apply(page: Page, address: str) -> None:
    go(page, address)
    page.get_by_role("button", name="Apply now", exact=True).click()
    expect(page.locator(".lb-head").get_by_text("Applied")).to_be_visible(timeout=30_000)


def bring_live(console: Console, *, author: Page, approver: Page, operator: Page) -> None:
    """From the page of a draft change in the author's browser until every node carries it."""
    address = submit(author)
    approve(approver, console, address, by="approver")
    apply(operator, address)


def live_revision(page: Page) -> int:
    go(page, "/")
    found = re.search(r"Revision (\d+)", page.locator(".lb-tile").first.inner_text())
    assert found is not None
    return int(found[1])


def operate(page: Page, service: str, button: str, *, reason: str) -> None:
    """What an operator does with the first backend of a service; ends on the page of the service."""
    open_form(page, service)
    first = page.locator("#operate details").first
    first.locator("summary").click()
    first.get_by_label("Reason").fill(reason)
    first.get_by_role("button", name=button).click()
    page.get_by_text("waits for a second person's signature").first.wait_for()


def set_operation(page: Page, *, confirm: str, seconds: int) -> None:
    """The operation policy of the demo's cluster: who confirms, and within which time."""
    go(page, "/balancer/cluster/1/operation/")
    page.get_by_label("Confirmed by").select_option(label=confirm)
    page.get_by_label("Seconds to confirm").fill(str(seconds))
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("The operation policy of demo was saved.")).to_be_visible()


def set_rehearsals(page: Page, rehearsal: str) -> None:
    go(page, "/balancer/cluster/1/operation/")
    page.get_by_label("Rehearsal", exact=True).select_option(label=rehearsal)
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("The operation policy of demo was saved.")).to_be_visible()


def declare_freeze(page: Page, *, reason: str, hours: int = 1) -> None:
    """From a minute ago on."""
    now = datetime.now(UTC)
    go(page, "/balancer/cluster/1/freeze/")
    page.get_by_label("From (UTC)").fill(f"{now - timedelta(minutes=1):%Y-%m-%dT%H:%M}")
    page.get_by_label("Until (UTC)").fill(f"{now + timedelta(hours=hours):%Y-%m-%dT%H:%M}")
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="Declare freeze").click()
    expect(page.get_by_text("The freeze is declared.")).to_be_visible()


def lift_freeze(page: Page) -> None:
    go(page, "/balancer/cluster/1/change/")
    page.get_by_role("button", name="Lift", exact=True).click()
    expect(page.get_by_text("The freeze is lifted.")).to_be_visible()


def schedule(page: Page, address: str, *, begin: datetime, minutes: int = 10) -> None:
    """Of an approved change, with so many minutes to begin in."""
    go(page, address)
    page.get_by_label("Begin from (UTC)").fill(f"{begin:%Y-%m-%dT%H:%M:%S}")
    end = begin + timedelta(minutes=minutes)
    page.get_by_label("Begin no later than (UTC)").fill(f"{end:%Y-%m-%dT%H:%M}")
    page.get_by_role("button", name="Schedule", exact=True).click()


def declare_emergency(console: Console, page: Page, address: str, *, reason: str) -> None:
    """By the administrator."""
    go(page, address)
    page.get_by_text("Apply without an approval…").click()
    page.get_by_label("What is the emergency?").fill(reason)
    password = page.locator("#emergency-password")
    if password.count():
        password.fill(console.passwords["administrator"])
    page.get_by_role("button", name="Apply as an emergency").click()
