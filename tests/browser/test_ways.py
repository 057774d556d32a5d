"""A service with persistence and weights that its nodes move, from the form to clients that are forgotten."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import Console, Person
from tests.browser.pictures import look_around
from tests.browser.steps import bring_live, go, load_anew, new_service, open_form

TICK = 15_000
"""Milliseconds: nodes count their clients at a tick, every ten seconds at most."""


def test_clients_are_remembered_counted_and_forgotten_again(console: Console, person: Person) -> None:
    author, approver, operator = person("editor"), person("approver"), person("operator")
    new_service(author, "sticky", 8088, weights=(1, 1), also=keep_clients)

    bring_live(console, author=author, approver=approver, operator=operator)

    found = console.connect(balancer="10.0.0.1", port=8088, count=20)
    assert sorted(found.values()) == [20], "one client stays with one backend"

    open_form(operator, "sticky")
    shown = operator.locator("#clients")
    wait_for_count(operator, "1")
    assert look_around(operator, "clients") == []
    shown.get_by_role("link", name="Clear persistence").click()
    assert look_around(operator, "clear") == []
    operator.get_by_role("button", name="Clear persistence").click()
    expect(operator.locator("#clients").get_by_text("asked by operator").first).to_be_visible()
    wait_for_count(operator, "0")
    assert look_around(operator, "cleared") == []
    go(operator, "/balancer/node/")
    operator.get_by_role("link", name="lb1").first.click()
    assert look_around(operator, "node-clients") == []


def keep_clients(page: Page) -> None:
    page.locator("#id_port").fill("8088-8089")
    page.get_by_label("Scheduler").select_option(label="Least connections")
    page.get_by_label("Persistence", exact=True).select_option(label="By client address")
    page.get_by_label("Timeout of persistence").fill("600")
    assert look_around(page, "form-sticky") == []


def wait_for_count(page: Page, count: str) -> None:
    """Until lb1 has so many clients at one of the backends, and no more at any."""
    cells = page.locator("#clients tbody td:nth-child(2)")
    for _ in range(TICK // 500):
        if count in cells.all_inner_texts() and set(cells.all_inner_texts()) <= {count, "0"}:
            return
        page.wait_for_timeout(500)
        load_anew(page)
    raise AssertionError(f"{cells.all_inner_texts()}, expected {count}")
