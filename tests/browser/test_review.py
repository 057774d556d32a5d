"""Several people at once over the same services: sent back, rejected, overtaken, out of date. Nobody loses
anything, and nobody brings anything live alone."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Console, Person, seats
from tests.browser.pictures import look_at
from tests.browser.steps import (
    apply,
    approve,
    bring_live,
    go,
    name_it,
    new_service,
    open_form,
    save,
    set_rehearsals,
    set_weight,
    submit,
)

PORT = 8085
"""Every backend of the demo answers on 80; the service listens where the background traffic does not go."""


class Desks(dict[str, Page]):
    """Everybody at their own desk, from the moment in which they are needed."""

    def __init__(self, person: Person) -> None:
        super().__init__()
        self._person = person

    def __missing__(self, name: str) -> Page:
        self[name] = self._person(name)
        return self[name]


@pytest.fixture
def people(console: Console, person: Person, without_rehearsals: None) -> Desks:
    """The administrator writes changes here, as a second author."""
    return Desks(person)


@pytest.fixture(scope="module")
def without_rehearsals(browser: Browser, console: Console) -> Iterator[None]:
    """They take seconds of both nodes, and the other files wait for theirs."""
    with seats(browser, console) as person:
        set_rehearsals(person("administrator"), "Not needed")
    yield
    with seats(browser, console) as person:
        set_rehearsals(person("administrator"), "Required before an approval")


def test_a_change_that_was_sent_back_is_edited_and_comes_through(console: Console, people: Desks) -> None:
    author, approver, stranger = people["editor"], people["approver"], people["viewer"]
    new_service(author, "desk", PORT)
    name_it(author, "A desk")
    address = submit(author)

    go(stranger, address)
    expect(stranger.get_by_role("button", name="Approve")).to_have_count(0)
    stranger.get_by_label("Comment").fill("Who asked for this?")
    stranger.get_by_role("button", name="Comment").click()
    expect(stranger.locator(".lb-quote")).to_have_text("Who asked for this?")

    go(approver, address)
    expect(approver.locator(".lb-quote")).to_have_text("Who asked for this?")
    approver.get_by_label("Comment").first.fill("Both machines are alike: same weight, please.")
    approver.get_by_role("button", name="Request changes").click()
    expect(approver.get_by_text("Sent back.")).to_be_visible()

    go(author, address)
    expect(author.locator(".lb-head").get_by_text("Changes requested")).to_be_visible()
    expect(author.get_by_text("same weight, please").first).to_be_visible()
    assert look_at(author, "sent-back-1440-light") == []
    author.get_by_role("link", name="Edit", exact=True).click()
    set_weight(author, 1)
    save(author)
    bring_live(console, author=author, approver=approver, operator=people["operator"])
    assert console.connect(balancer="10.0.0.1", port=PORT, count=20) == {"10.0.0.3:80": 10, "10.0.0.4:80": 10}


def test_a_rejection_wants_a_reason_and_keeps_what_was_typed(console: Console, people: Desks) -> None:
    author, approver = people["editor"], people["approver"]
    new_service(author, "rejected", 8081)
    address = submit(author)

    go(approver, address)
    approver.get_by_role("button", name="Reject").click()
    expect(approver.get_by_text("Say why you reject the change").first).to_be_visible()
    approver.get_by_label("Comment").first.fill("We have one of these.")
    approver.get_by_role("button", name="Reject").click()

    go(author, address)
    expect(author.locator(".lb-head").get_by_text("Rejected")).to_be_visible()
    expect(author.get_by_text("We have one of these.").first).to_be_visible()
    author.get_by_role("button", name="Withdraw").click()
    author.get_by_role("button", name="Discard").click()
    expect(author.locator(".lb-head").get_by_text("Discarded")).to_be_visible()


def test_a_wrong_password_approves_nothing_and_keeps_the_comment(
    console: Console, person: Person, people: Desks
) -> None:
    author, approver = people["editor"], person("approver", new=True)
    new_service(author, "guarded", 8082)
    address = submit(author)

    go(approver, address)
    approver.get_by_label("Comment").first.fill("Fine with me.")
    approver.get_by_label("Your password, to approve").fill("not this one")
    approver.get_by_role("button", name="Approve").click()

    expect(approver.get_by_text("That is not your password.").first).to_be_visible()
    expect(approver.get_by_label("Comment").first).to_have_value("Fine with me.")
    assert look_at(approver, "wrong-password-1440-light") == []
    approver.get_by_label("Your password, to approve").fill(console.passwords["approver"])
    approver.get_by_role("button", name="Approve").click()
    expect(approver.get_by_text("Your approval is recorded.")).to_be_visible()
    go(author, address)
    author.get_by_role("button", name="Withdraw").click()
    author.get_by_role("button", name="Discard").click()


def test_a_change_that_became_stale_is_brought_up_to_date_and_nothing_is_lost(
    console: Console, people: Desks
) -> None:
    author, other = people["editor"], people["administrator"]
    approver, operator = people["approver"], people["operator"]
    new_service(author, "shelf", 8083, weights=(1, 1))
    bring_live(console, author=author, approver=approver, operator=operator)

    open_form(author, "shelf")
    set_weight(author, 3)
    save(author)
    address = submit(author)
    approve(approver, console, address, by="approver")
    open_form(other, "shelf")
    set_weight(other, 2)
    set_weight(other, 5, row=1)
    save(other)
    bring_live(console, author=other, approver=approver, operator=operator)

    go(operator, address)
    expect(operator.get_by_text("The service shelf was modified since.")).to_be_visible()
    operator.get_by_role("button", name="Apply now", exact=True).click()
    expect(operator.get_by_text("bring it up to date").first).to_be_visible()
    go(author, address)
    author.get_by_role("button", name="Withdraw").click()
    stale = author.locator("section", has=author.get_by_role("heading", name="What moved since"))
    expect(stale.get_by_text("Both changed")).to_be_visible()
    assert look_at(author, "stale-1440-light") == []
    stale.get_by_label("3", exact=True).check()
    author.get_by_role("button", name="Bring up to date").click()
    expect(author.get_by_text("nothing of either side was lost")).to_be_visible()
    again = submit(author)
    approve(approver, console, again, by="approver")
    apply(operator, again)

    # Mine where both had an opinion, theirs where I had none.
    assert console.connect(balancer="10.0.0.2", port=8083, count=16) == {"10.0.0.3:80": 6, "10.0.0.4:80": 10}


def test_who_is_overtaken_in_one_draft_is_told_by_whom_and_loses_nothing(
    console: Console, people: Desks
) -> None:
    author, helper = people["editor"], people["administrator"]
    new_service(author, "shared", 8084, weights=(1, 1))
    address = author.url
    go(helper, address)
    expect(helper.get_by_role("link", name="Edit", exact=True)).to_have_count(0)
    author.get_by_text("Invite others to edit").click()
    author.get_by_label("Username").fill("administrator")
    author.get_by_role("button", name="Invite", exact=True).click()
    expect(author.get_by_text("Invited. What they edit")).to_be_visible()

    go(helper, address)
    for page in (author, helper):
        page.get_by_role("link", name="Edit", exact=True).click()
    set_weight(helper, 7)
    helper.get_by_label("Description").fill("Shared by two")
    save(helper)
    set_weight(author, 9)
    set_weight(author, 4, row=1)
    author.get_by_role("button", name="Save as draft").click()

    expect(author.get_by_text("administrator changed shared on").first).to_be_visible()
    assert look_at(author, "overtaken-1440-light") == []
    rows = author.locator("[data-row]")
    expect(rows.nth(0).get_by_label("Weight")).to_have_value("9")
    expect(rows.nth(1).get_by_label("Weight")).to_have_value("4")
    expect(author.get_by_label("Description")).to_have_value("Shared by two")
    save(author)

    submit(author)
    go(helper, address)
    expect(
        helper.get_by_text("You edited a draft in this change, so someone else must approve it.")
    ).to_be_visible()
    expect(helper.get_by_role("button", name="Approve")).to_have_count(0)
    author.get_by_role("button", name="Withdraw").click()
    author.get_by_role("button", name="Discard").click()
