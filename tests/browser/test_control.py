"""Changes under control, with four people: one that begins by itself, one that nobody confirmed, one
in an emergency, an operator's own hand, and clients that are forgotten. What the pages say is held against
real connections."""

import re
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PATIENCE, Console, Person
from tests.browser.pictures import held_still, look_around
from tests.browser.steps import (
    apply,
    approve,
    bring_live,
    declare_emergency,
    declare_freeze,
    go,
    lift_freeze,
    live_revision,
    load_anew,
    name_it,
    new_service,
    open_form,
    operate,
    save,
    schedule,
    set_operation,
    submit,
)
from tests.stopwatch import Stopwatch

CANARY, SECOND = "10.0.0.1", "10.0.0.2"
BALANCERS = (CANARY, SECOND)
EVENLY = {"10.0.0.3:80": 10, "10.0.0.4:80": 10}
CONFIRM_SECONDS, LOOKS = 8, 10
"""Enough to see in it what the node carries, and so many looks more on a machine that takes long for one; the
guard ends it."""
TICKS = 2 * PATIENCE
"""A worker looks at its windows, and at what its guard did, every five seconds, and counts its clients every
ten; a rehearsal comes first."""


def test_a_scheduled_change_begins_by_itself_and_traffic_follows(console: Console, person: Person) -> None:
    author, approver, operator = person("editor"), person("approver"), person("operator")
    new_service(author, "night", 8090, weights=(1, 1))
    name_it(author, "Open the night desk")
    address = submit(author)
    approve(approver, console, address, by="approver")

    schedule(operator, address, begin=datetime.now(UTC) + timedelta(seconds=3))

    begun = operator.locator(".lb-head").get_by_text(re.compile("Appl(ying|ied)"))
    expect(operator.get_by_text("Scheduled by operator to begin between").or_(begun).first).to_be_visible()
    reload_until(operator, operator.locator(".lb-head").get_by_text("Applied"))
    expect(operator.get_by_text("2 of 2 nodes carry revision")).to_be_visible()
    for balancer in BALANCERS:
        assert console.connect(balancer=balancer, port=8090, count=20) == EVENLY, balancer


def test_what_nobody_confirms_goes_back_by_itself_and_everybody_is_told(
    console: Console, person: Person
) -> None:
    author, approver, operator = person("editor"), person("approver"), person("operator")
    administrator = person("administrator")
    live = live_revision(author)
    address = draft_without_the_last_backend(author)
    approve(approver, console, address, by="approver")
    watch = Stopwatch()
    backends_of(console, CANARY)
    set_operation(administrator, confirm="A person", seconds=round(CONFIRM_SECONDS + LOOKS * watch.seconds))
    try:
        go(operator, address)
        operator.get_by_role("button", name="Apply now", exact=True).click()
        expect(operator.get_by_role("button", name="Confirm revision")).to_be_visible(timeout=30_000)
        assert backends_of(console, CANARY) == {"10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80"}
        with held_still(operator):
            assert look_around(operator, "unconfirmed") == []

        expect(operator.locator(".lb-head").get_by_text("Failed")).to_be_visible(timeout=TICKS)
        go(operator, address)
        for page, where in ((operator, address), (author, "/"), (approver, "/balancer/node/1/change/")):
            go(page, where)
            expect(page.get_by_role("alert").filter(has_text="lb1 went back by itself.")).to_be_visible()
        assert look_around(operator, "went-back") == []
        assert look_around(author, "went-back-dashboard") == []
        assert look_around(approver, "went-back-node") == []
        # The second node was never touched, and the canary is as it was.
        assert live_revision(author) == live
        for balancer in BALANCERS:
            assert "10.0.0.6:80" in backends_of(console, balancer), balancer

        set_operation(administrator, confirm="The worker when its checks hold, or else a person", seconds=120)
        apply(operator, address)
        for balancer in BALANCERS:
            assert "10.0.0.6:80" not in backends_of(console, balancer), balancer
    finally:
        set_operation(administrator, confirm="The worker, when its checks hold", seconds=120)
    go(author, "/")
    expect(author.get_by_role("alert")).to_have_count(0)


def test_an_emergency_passes_a_freeze_and_is_on_every_dashboard_until_it_is_signed(
    console: Console, person: Person
) -> None:
    author, operator = person("editor"), person("operator", new=True)
    administrator = person("administrator")
    declare_freeze(administrator, reason="Nobody touches anything during the sale.")
    try:
        new_service(author, "hotline", 8091, weights=(1, 1))
        name_it(author, "Open the hotline")
        address = submit(author)
        go(operator, address)
        expect(operator.get_by_text("Nobody touches anything during the sale.")).to_be_visible()

        declare_emergency(console, administrator, address, reason="Nobody can call us.")

        expect(administrator.locator(".lb-head").get_by_text("Applied")).to_be_visible(timeout=30_000)
        go(administrator, address)
        told = administrator.get_by_role("alert").filter(has_text="applied this as an emergency")
        expect(told).to_contain_text("Nobody can call us.")
        assert look_around(administrator, "emergency") == []
        for balancer in BALANCERS:
            assert console.connect(balancer=balancer, port=8091, count=20) == EVENLY, balancer
        sign_what_everybody_sees(
            console, owed_by="Nobody can call us.", signer=operator, others=[author, administrator]
        )
    finally:
        lift_freeze(administrator)


def test_an_operator_drains_a_backend_and_lifts_it_again(console: Console, person: Person) -> None:
    operator = person("operator")
    operate(operator, "web", "Drain", reason="Its fan is loud.")
    expect(operator.get_by_text("Its fan is loud.")).to_be_visible()
    assert look_around(operator, "drained") == []
    wait_for_backends(console, operator, drained=True)

    operator.get_by_role("button", name="Lift: drained, 10.0.0.3:80").click()
    expect(operator.get_by_text("The nodes carry this service as it was approved.")).to_be_visible()
    wait_for_backends(console, operator, drained=False)


def test_a_node_proves_that_it_goes_back_while_traffic_goes_on(console: Console, person: Person) -> None:
    operator = person("operator")
    go(operator, "/balancer/node/2/change/")
    expect(operator.get_by_text("This node has not proven yet that it goes back by itself.")).to_be_visible()
    live = live_revision(operator)

    go(operator, "/balancer/node/2/change/")
    operator.get_by_role("button", name="Start a drill").click()

    expect(operator.get_by_text("A drill is under way.")).to_be_visible()
    assert look_around(operator, "drill") == []
    before = backends_of(console, SECOND)
    reload_until(operator, operator.get_by_text("ms after the deadline"))
    expect(operator.get_by_role("button", name="Start a drill")).to_be_visible()
    assert look_around(operator, "drilled") == []
    assert backends_of(console, SECOND) == before
    assert live_revision(operator) == live


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
    operator.get_by_role("button", name="Clear persistence").click()
    expect(operator.locator("#clients").get_by_text("asked by operator").first).to_be_visible()
    wait_for_count(operator, "0")
    go(operator, "/balancer/node/")
    operator.get_by_role("link", name="lb1").first.click()
    expect(operator.get_by_text("sticky: 0 clients")).to_be_visible()


def reload_until(page: Page, shown: Locator) -> None:
    """Reload the page until it shows this; it fails after a few ticks."""
    deadline = datetime.now(UTC) + timedelta(milliseconds=TICKS)
    while not shown.count() and datetime.now(UTC) < deadline:
        page.wait_for_timeout(500)
        load_anew(page)
    expect(shown).to_be_visible()


def draft_without_the_last_backend(page: Page) -> str:
    """The service `web` takes 10.0.0.6 out; the address of the change, which is in review."""
    open_form(page, "web")
    page.locator("[data-row]").nth(3).get_by_label("State").select_option(label="Disabled")
    save(page)
    name_it(page, "Three machines are enough")
    return submit(page)


def backends_of(console: Console, balancer: str) -> set[str]:
    """Which backends of `web` answer; the background traffic takes turns of it too, so not how often."""
    return set(console.connect(balancer=balancer, port=80, count=24, at_once=8))


def sign_what_everybody_sees(console: Console, *, owed_by: str, signer: Page, others: list[Page]) -> None:
    for page in (signer, *others):
        go(page, "/")
        expect(owed(page, owed_by)).to_be_visible()
    assert look_around(signer, "owed") == []
    owed(signer, owed_by).get_by_role("link", name="Sign:").click()
    signer.get_by_label("Comment").fill("I called; it works.")
    signer.get_by_label("Your password, to sign").fill(console.passwords["operator"])
    signer.get_by_role("button", name="Sign", exact=True).click()
    expect(signer.get_by_text("I called; it works.")).to_be_visible()
    assert look_around(signer, "signed") == []
    for page in (signer, *others):
        go(page, "/")
        expect(page.get_by_role("heading", name="Latest events")).to_be_visible()
        expect(owed(page, owed_by)).to_have_count(0)


def owed(page: Page, why: str) -> Locator:
    """On a dashboard, the line of what waits for a signature."""
    return page.locator("section[aria-labelledby=late-heading] li", has_text=why)


def wait_for_backends(console: Console, page: Page, *, drained: bool) -> None:
    """It takes effect within seconds on every node."""
    for balancer in BALANCERS:
        deadline = datetime.now(UTC) + timedelta(milliseconds=PATIENCE)
        while ("10.0.0.3:80" in backends_of(console, balancer)) is drained and datetime.now(UTC) < deadline:
            page.wait_for_timeout(200)
        assert ("10.0.0.3:80" in backends_of(console, balancer)) is not drained, balancer


def keep_clients(page: Page) -> None:
    page.locator("#id_port").fill("8088-8089")
    page.get_by_label("Scheduler").select_option(label="Least connections")
    page.get_by_label("Persistence", exact=True).select_option(label="By client address")
    page.get_by_label("Timeout of persistence").fill("600")


def wait_for_count(page: Page, count: str) -> None:
    """Until lb1 has so many clients at one of the backends, and no more at any."""
    cells = page.locator("#clients tbody td:nth-child(2)")
    for _ in range(TICKS // 500):
        if count in cells.all_inner_texts() and set(cells.all_inner_texts()) <= {count, "0"}:
            return
        page.wait_for_timeout(500)
        load_anew(page)
    raise AssertionError(f"{cells.all_inner_texts()}, expected {count}")
