"""The whole of it, in the browsers of three people and on real kernels: draft, review, apply, roll back."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import Console, Person
from tests.browser.pictures import held_still, look_at
from tests.browser.steps import approve, go, live_revision, name_it, open_form, save, set_weight, submit

PORT = 8080
"""Of a service of our own: the demo's background traffic takes turns of its service."""
BALANCERS = ("10.0.0.1", "10.0.0.2")


def test_three_people_bring_a_service_live_change_it_and_take_the_change_back(
    console: Console, person: Person
) -> None:
    author, approver, operator = person("editor"), person("approver"), person("operator")

    draft_a_new_service(author)
    review_and_apply(console, author, approver, operator, title="Sell on port 8080")
    assert_traffic(console, {"10.0.0.3:80": 30, "10.0.0.4:80": 10})
    first = live_revision(operator)

    edit_the_weight(author)
    review_and_apply(console, author, approver, operator, title="Sell evenly")
    assert_traffic(console, {"10.0.0.3:80": 20, "10.0.0.4:80": 20})
    assert live_revision(operator) == first + 1

    go(operator, "/balancer/revision/")
    operator.get_by_role("link", name=f"demo {first}", exact=True).click()
    operator.get_by_role("button", name="Roll back to this").click()
    expect(operator.get_by_text("was prepared")).to_be_visible()
    review_and_apply(console, operator, approver, operator, title=None)
    assert_traffic(console, {"10.0.0.3:80": 30, "10.0.0.4:80": 10})
    assert live_revision(operator) == first + 2

    ask_who_let_it_through(operator)


def test_an_author_is_told_that_somebody_else_must_approve(console: Console, person: Person) -> None:
    page = person("administrator")
    go(page, "/balancer/service/")
    page.get_by_role("link", name="web", exact=True).click()
    page.get_by_label("Description").fill("The administrator's own idea")
    page.get_by_role("button", name="Save as draft").click()
    page.get_by_role("button", name="Submit for review").click()

    expect(page.get_by_text("You wrote this change, so someone else must approve it.")).to_be_visible()
    expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_role("button", name="Discard").click()


def test_a_mistake_is_marked_in_the_form_and_nothing_is_lost(console: Console, person: Person) -> None:
    page = person("editor")
    go(page, "/balancer/service/add/")
    page.get_by_label("Name").fill("oops")
    page.get_by_label("Interface").fill("eth0")
    page.locator("#id_port").fill("99999")
    expect(page.locator("#preview")).to_contain_text("1 to 65535, not 99999")

    page.get_by_role("button", name="Save as draft").click()

    expect(page.get_by_role("alert").first).to_contain_text("Nothing was saved")
    expect(page.locator("#id_port_error")).to_contain_text("1 to 65535, not 99999")
    expect(page.locator("#id_port")).to_have_value("99999")
    expect(page.get_by_label("Name")).to_have_value("oops")


def draft_a_new_service(page: Page) -> None:
    go(page, "/balancer/service/add/")
    page.get_by_label("Name").fill("shop")
    page.get_by_label("Interface").fill("eth0")
    page.locator("#id_port").fill(str(PORT))
    row = page.locator("[data-row]").first
    row.get_by_label("Address").fill("10.0.0.3")
    row.get_by_label("Port").fill("80")
    row.get_by_label("Weight").fill("3")
    page.get_by_role("button", name="Add backend").click()
    row = page.locator("[data-row]").nth(1)
    row.get_by_label("Address").fill("10.0.0.4")
    row.get_by_label("Port").fill("80")
    expect(page.locator("#preview")).to_contain_text("3/4 · 75 %")
    expect(page.locator("#preview")).to_contain_text("-A LB-S-shop")
    save(page)


def edit_the_weight(page: Page) -> None:
    open_form(page, "shop")
    set_weight(page, 1)
    expect(page.locator("#preview")).to_contain_text("3/4 · 75 % → 1/2 · 50 %")
    save(page)


def review_and_apply(
    console: Console, author: Page, approver: Page, operator: Page, *, title: str | None
) -> None:
    """From the page of a draft change in the author's browser to a live one in the operator's."""
    if title is not None:
        name_it(author, title)
    address = submit(author)
    expect(
        author.get_by_text("someone else must approve it").or_(author.get_by_text("waits for an approver"))
    ).to_be_visible()
    approve(approver, console, address, by="approver")
    go(operator, address)
    with held_still(operator):
        operator.get_by_role("button", name="Apply now", exact=True).click()
        expect(operator.get_by_role("heading", name="Applying revision")).to_be_visible()
        assert look_at(operator, "applying-1440-light") == []
    expect(operator.get_by_text("2 of 2 nodes carry revision")).to_be_visible(timeout=30_000)
    expect(operator.locator(".lb-head").get_by_text("Applied")).to_be_visible()
    expect(operator.get_by_text("Read the rules back").first).to_be_visible()


def ask_who_let_it_through(page: Page) -> None:
    """From a live service, in one click, to the people, and in another to what they saw."""
    open_form(page, "shop")
    page.get_by_role("link", name="Who let this through?").click()
    people = page.get_by_role("table")
    for part, who in (("Author", "operator"), ("Approver", "approver"), ("Applied by", "operator")):
        expect(people.get_by_role("row", name=part).first).to_contain_text(who)
    assert look_at(page, "origin-1440-light") == []
    people.get_by_role("link", name="what was seen").click()
    expect(page.get_by_role("heading", name="shop", exact=True)).to_be_visible()
    expect(page.get_by_text("1/2 · 50 %").first).to_be_visible()
    assert look_at(page, "seen-1440-light") == []


def assert_traffic(console: Console, expected: dict[str, int]) -> None:
    """Exactly so on both kernels: python-iptables on legacy, iptables-restore on nft."""
    for balancer in BALANCERS:
        assert console.connect(balancer=balancer, port=PORT, count=40) == expected, balancer
