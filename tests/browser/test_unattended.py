"""What happens to a service when nobody changes it: a backend dies, one leaves, somebody meddles with the
kernel; and what people then see and do in the console, with real connections beside it."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Console, Person
from tests.browser.pictures import DIRECTORY, look_around, look_as
from tests.browser.steps import go, load_anew, open_form, save, submit

DEAD, LEAVES = "10.0.0.4", "10.0.0.5:80"
BALANCERS = ("10.0.0.1", "10.0.0.2")
SLIPPED = "-p tcp -m tcp --dport 9999 -j ACCEPT"
DROPPED = "203.0.113.0/24"
SECONDS = 180.0
"""Of patience: INPUT is read each minute, drift is looked for each half."""


@pytest.fixture(scope="module", autouse=True)
def meddled(console: Console) -> Iterator[None]:
    """A rule in a chain of ours on lb1, and one of the host's own in INPUT on lb2; found in their time."""
    drop = ["-s", DROPPED, "-p", "tcp", "--dport", "80", "-j", "DROP"]
    console.run("lb1", "iptables-legacy", "-w", "5", "-t", "nat", "-I", "LB-PREROUTING", *SLIPPED.split())
    console.run("lb2", "iptables-nft", "-w", "5", "-A", "INPUT", *drop)
    yield
    console.run("lb2", "iptables-nft", "-w", "5", "-D", "INPUT", *drop)


def test_a_backend_that_dies_is_told_with_its_reason_and_comes_back(console: Console, person: Person) -> None:
    viewer = person("viewer")
    console.switch_off(DEAD)
    try:
        go(viewer, "/")
        reload_until(viewer, viewer.get_by_text("1 of 4 down"), count=2)
        expect(
            viewer.locator(".lb-note", has_text=f"{DEAD}:80 of web on lb1, lb2: tried GET")
        ).to_be_visible()
        for balancer in BALANCERS:
            found = console.connect(balancer=balancer, port=80, count=24, at_once=8)
            assert set(found) == {"10.0.0.3:80", "10.0.0.5:80", "10.0.0.6:80"}, (balancer, found)
        wrong = look_around(viewer, "down-dashboard") + look_as(viewer, DOWN_PAGES)
        if DIRECTORY:
            wrong += look_as(viewer, MORE_DOWN_PAGES)
        assert not wrong, "\n".join(wrong)
    finally:
        console.switch_on(DEAD)
    go(viewer, "/")
    reload_until(viewer, viewer.get_by_text("All up"), count=2)
    for balancer in BALANCERS:
        assert f"{DEAD}:80" in console.connect(balancer=balancer, port=80, count=24, at_once=8)


def test_a_backend_that_leaves_is_counted_down_until_it_is_empty(console: Console, person: Person) -> None:
    operator = person("operator")
    with console.held_open(balancer="10.0.0.1", port=80, count=20):
        open_form(operator, "web")
        one = operator.locator("#operate li", has_text=LEAVES)
        one.locator("summary").click()
        one.get_by_label("Reason").fill("It gets a new disk.")
        one.get_by_role("button", name="Drain").click()
        expect(operator.locator("#leaving .lb-chip", has_text="Draining")).to_be_visible()
        left = operator.locator("#leaving").get_by_text(re.compile(r"on lb1: [1-9]\d* connections? left"))
        expect(left).to_be_visible(timeout=20_000)
        wrong = look_around(operator, "leaving") if DIRECTORY else []
    expect(operator.locator("#leaving .lb-chip", has_text="Empty")).to_be_visible(timeout=30_000)
    expect(operator.locator("#leaving").get_by_text("it can be switched off")).to_be_visible()
    wrong += look_around(operator, "left")
    assert not wrong, "\n".join(wrong)
    operator.get_by_role("button", name=f"Lift: drained, {LEAVES}").click()
    expect(operator.get_by_text("The nodes carry this service as it was approved.")).to_be_visible()


def test_a_rule_slipped_into_our_chain_is_shown_and_ours_is_put_back(person: Person) -> None:
    page = person("operator")
    go(page, "/balancer/node/1/change/")
    card = page.locator("#drift")
    reload_until(page, card.get_by_text("What differed"))
    assert look_around(page, "drift-mended") == []
    expect(card.get_by_text(SLIPPED)).to_be_visible()
    expect(card.get_by_text("1 line differed")).to_be_visible()
    expect(card.get_by_text("put back").first).to_be_visible()
    expect(card.locator("li time").first).to_be_visible()
    expect(card.get_by_text("The kernel carries what it should.")).to_be_visible()


def test_traffic_shows_shares_beside_what_is_declared_and_marks_applies(person: Person) -> None:
    page = person("viewer")
    go(page, "/balancer/service/1/traffic/?range=quarter")
    expect(page.locator("[data-plot=fair] canvas")).to_be_visible()
    expect(page.locator("section[aria-labelledby=marks-heading] li").first).to_contain_text("Revision")
    assert look_around(page, "traffic-quarter") == []


def test_what_is_polled_takes_nobody_back_who_is_just_leaving(person: Person) -> None:
    page = person("viewer")
    poll_answers = "document.dispatchEvent(new CustomEvent('htmx:beforeOnLoad', {cancelable: true}))"
    assert page.evaluate(poll_answers) is True
    page.evaluate("window.dispatchEvent(new Event('beforeunload'))")
    assert page.evaluate(poll_answers) is False


def test_the_form_names_the_wrong_line_of_a_list(person: Person) -> None:
    page = person("editor")
    open_form(page, "web")
    page.locator("summary", has_text="Access").click()
    page.get_by_label("Deny", exact=False).first.fill(f"{DROPPED}\n\n10.0.0.0/99")
    page.get_by_label("Interval").first.fill("0")
    page.get_by_role("button", name="Save as draft").click()
    expect(page.locator("#id_deny_error")).to_contain_text("Line 3")
    assert look_around(page, "form-wrong") == []


def test_what_input_drops_becomes_a_draft(person: Person) -> None:
    page = person("editor")
    open_form(page, "web")
    page.get_by_label("Description").first.fill("Nodes look more often while a change is in review")
    save(page)
    reviewed = submit(page)
    go(page, "/balancer/service/input/1/?name=web")
    reload_until(page, page.get_by_role("button", name=re.compile("^Draft this in")))
    assert look_around(page, "input-offer") == []
    page.get_by_label("Draft it in").select_option(label="A new change")
    page.get_by_role("button", name="Show for this one").click()
    page.get_by_role("button", name="Draft this in a new change").click()
    expect(page.get_by_text("The access lists of web are drafted")).to_be_visible()
    expect(page.get_by_text(DROPPED).first).to_be_visible()
    page.get_by_role("button", name="Discard").click()
    go(page, reviewed)
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_role("button", name="Discard").click()
    expect(page.locator(".lb-head").get_by_text("Discarded")).to_be_visible()


def reload_until(page: Page, shown: Locator, *, count: int = 1) -> None:
    """Reload the page until it shows this so many times."""
    deadline = datetime.now(UTC) + timedelta(seconds=SECONDS)
    while shown.count() < count and datetime.now(UTC) < deadline:
        page.wait_for_timeout(500)
        load_anew(page)
    expect(shown.first).to_be_visible()
    assert shown.count() >= count


DOWN_PAGES = {"down-service": "/balancer/service/1/change/", "down-nodes": "/balancer/node/"}
MORE_DOWN_PAGES = {
    "down-services": "/balancer/service/",
    "down-node": "/balancer/node/1/change/",
    "down-cluster": "/balancer/cluster/1/change/",
}
"""Only where pictures are asked for: what they are made of is looked at elsewhere."""
