"""A person's open changes, the one that is being edited, and the people who are let into it."""

import pytest
from django.contrib.auth.models import User

from balancer.models import AuditEvent, Change, EditedChange
from balancer.workflow.approvals import request_changes
from balancer.workflow.drafts import delete_service, discard_draft, save_draft
from balancer.workflow.editing import (
    COMMENT_MAX,
    choose_change,
    comment_on_change,
    current_change,
    describe_change,
    find_current_change,
    invite_person,
    leave_change,
    open_change,
    uninvite_person,
)
from balancer.workflow.rollback import roll_back_to
from balancer.workflow.submissions import (
    discard_change,
    rebase_change,
    submit_change,
    withdraw_change,
)
from tests.cast import Site, make_person
from tests.documents import service_data
from tests.workflow.deeds import actions_on, approve, edit, invited, open_by, refusal_of


@pytest.fixture
def helper(db: None) -> User:
    return make_person("helper", "Editor", "Approver")


# Several open changes


def test_a_person_has_several_open_changes_and_edits_in_the_one_that_was_opened_last(site: Site) -> None:
    first, second = open_by(site.author, site, "First"), open_by(site.author, site, "Second")

    edit(site.author, site)

    assert (first.drafts.count(), second.drafts.count()) == (0, 1)


def test_edits_go_into_the_change_that_was_chosen_until_another_one_is(site: Site) -> None:
    first, second = open_by(site.author, site, "First"), open_by(site.author, site, "Second")

    choose_change(actor=site.author, change=first)
    edit(site.author, site, name="web")
    edit(site.author, site, name="dns", port=53)
    choose_change(actor=site.author, change=second)
    edit(site.author, site, name="mail", port=25)

    assert set(first.drafts.values_list("service_name", flat=True)) == {"web", "dns"}
    assert set(second.drafts.values_list("service_name", flat=True)) == {"mail"}


def test_one_change_does_not_see_the_drafts_of_another(site: Site) -> None:
    first, second = open_by(site.author, site, "First"), open_by(site.author, site, "Second")

    edit(site.author, site, first, "web", port=80)
    edit(site.author, site, second, "web", port=81)

    assert [c.drafts.get().after["port"] for c in (first, second)] == [80, 81]


def test_a_chosen_change_that_left_the_state_of_editing_is_not_edited_any_more(site: Site) -> None:
    change = edit(site.author, site).change
    submit_change(actor=site.author, change=change)

    assert find_current_change(actor=site.author, cluster=site.cluster) is None
    assert current_change(actor=site.author, cluster=site.cluster) != change


def test_who_leaves_a_change_edits_in_a_new_one_next(site: Site) -> None:
    first = edit(site.author, site).change

    leave_change(actor=site.author, cluster=site.cluster)

    assert edit(site.author, site, name="mail", port=25).change != first
    first.refresh_from_db()
    assert first.state == "draft"


@pytest.mark.parametrize("state", ["submitted", "discarded"])
def test_what_cannot_be_edited_cannot_be_chosen(site: Site, state: str) -> None:
    change = edit(site.author, site).change
    deed = submit_change if state == "submitted" else discard_change
    deed(actor=site.author, change=change)

    assert refusal_of(lambda: choose_change(actor=site.author, change=change)).code == "state"
    assert AuditEvent.objects.filter(action="change.chosen.refused").exists()


def test_somebody_elses_change_cannot_be_chosen_and_neither_can_a_rollback(site: Site, helper: User) -> None:
    change = open_by(site.author, site)
    first = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    rollback = roll_back_to(actor=helper, revision=first)

    assert refusal_of(lambda: choose_change(actor=helper, change=change)).code == "state"
    assert refusal_of(lambda: choose_change(actor=helper, change=rollback)).code == "state"
    assert not EditedChange.objects.filter(user=helper).exists()


def test_each_person_chooses_for_themselves(site: Site, helper: User) -> None:
    change = open_by(site.author, site)
    invited(helper, to=change)

    choose_change(actor=helper, change=change)
    leave_change(actor=site.author, cluster=site.cluster)

    assert find_current_change(actor=helper, cluster=site.cluster) == change
    assert find_current_change(actor=site.author, cluster=site.cluster) is None


# Invitations


STRANGERS_DEEDS = {
    "save": lambda who, change: save_draft(
        actor=who, cluster=change.cluster, change=change, data=service_data("mail", port=25)
    ),
    "delete": lambda who, change: delete_service(
        actor=who, cluster=change.cluster, change=change, name="web"
    ),
    "take out": lambda who, change: discard_draft(actor=who, change=change, service_name="web"),
    "describe": lambda who, change: describe_change(actor=who, change=change, title="Mine", description=""),
    "submit": lambda who, change: submit_change(actor=who, change=change),
    "withdraw": lambda who, change: withdraw_change(actor=who, change=change),
    "rebase": lambda who, change: rebase_change(actor=who, change=change),
    "discard": lambda who, change: discard_change(actor=who, change=change),
    "invite": lambda who, change: invite_person(actor=who, change=change, username=who.get_username()),
}


@pytest.mark.parametrize("deed", STRANGERS_DEEDS)
def test_nobody_edits_somebody_elses_change_without_an_invitation(
    site: Site, helper: User, deed: str
) -> None:
    change = edit(site.author, site).change

    refusal = refusal_of(lambda: STRANGERS_DEEDS[deed](helper, change))

    assert refusal.code == "not-invited"
    assert "author" in refusal.message
    change.refresh_from_db()
    assert (change.state, change.drafts.count(), change.invited.count()) == ("draft", 1, 0)


def test_a_superuser_needs_an_invitation_too(site: Site, superuser: User) -> None:
    change = edit(site.author, site).change

    assert refusal_of(lambda: edit(superuser, site, change, port=81)).code == "not-invited"


def test_whoever_is_invited_edits_submits_and_becomes_a_contributor(site: Site, helper: User) -> None:
    change = edit(site.author, site).change
    invited(helper, to=change)
    assert set(change.contributors.all()) == {site.author}

    edit(helper, site, change, "mail", port=25)
    submit_change(actor=helper, change=change)

    change.refresh_from_db()
    assert change.state == "submitted"
    assert set(change.contributors.all()) == {site.author, helper}


def test_an_invitation_alone_leaves_somebody_eligible_and_an_edit_does_not(site: Site) -> None:
    reader, writer = (make_person(name, "Editor", "Approver") for name in ("reader", "writer"))
    change = edit(site.author, site).change
    invited(reader, to=change)
    invited(writer, to=change)
    edit(writer, site, change, "mail", port=25)
    submit_change(actor=site.author, change=change)

    assert refusal_of(lambda: approve(writer, change)).code == "own-change"
    assert approve(reader, change).state == "approved"


def test_a_contributor_stays_ineligible_after_the_invitation_was_taken_back(site: Site, helper: User) -> None:
    change = edit(site.author, site).change
    invited(helper, to=change)
    edit(helper, site, change, "mail", port=25)
    discard_draft(actor=site.author, change=change, service_name="mail")

    uninvite_person(actor=site.author, change=change, username="helper")
    submit_change(actor=site.author, change=change)

    assert refusal_of(lambda: edit(helper, site, change, "dns", port=53)).code == "not-invited"
    assert refusal_of(lambda: approve(helper, change)).code == "own-change"


def test_who_submits_for_the_author_is_a_contributor(site: Site, helper: User) -> None:
    change = edit(site.author, site).change
    invited(helper, to=change)
    submit_change(actor=helper, change=change)

    assert refusal_of(lambda: approve(helper, change)).code == "own-change"


def test_who_is_uninvited_edits_elsewhere_from_then_on(site: Site, helper: User) -> None:
    change = edit(site.author, site).change
    invited(helper, to=change)
    choose_change(actor=helper, change=change)

    uninvite_person(actor=site.author, change=change, username="helper")

    assert find_current_change(actor=helper, cluster=site.cluster) is None


@pytest.mark.parametrize(
    ("username", "code"),
    [
        ("nobody", "invalid"),
        ("", "invalid"),
        ("away", "invalid"),
        ("author", "taken"),
        ("helper", "taken"),
        ("viewer", "forbidden"),
    ],
)
def test_only_active_people_who_may_draft_and_are_not_in_it_can_be_invited(
    site: Site, helper: User, viewer: User, username: str, code: str
) -> None:
    User.objects.filter(pk=make_person("away", "Editor").pk).update(is_active=False)
    change = open_by(site.author, site)
    invited(helper, to=change)

    refusal = refusal_of(lambda: invite_person(actor=site.author, change=change, username=username))

    assert refusal.code == code
    assert set(change.invited.all()) == {helper}


def test_only_the_author_invites(site: Site, helper: User) -> None:
    change = open_by(site.author, site)
    invited(helper, to=change)
    make_person("third", "Editor")

    assert (
        refusal_of(lambda: invite_person(actor=helper, change=change, username="third")).code == "forbidden"
    )


def test_nobody_is_invited_to_a_closed_change_or_to_a_rollback(site: Site, helper: User) -> None:
    first = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))
    closed = discard_change(actor=site.author, change=open_by(site.author, site))
    rollback = roll_back_to(actor=site.author, revision=first)

    codes = [
        refusal_of(lambda c=c: invite_person(actor=site.author, change=c, username="helper")).code
        for c in (closed, rollback)
    ]

    assert codes == ["state", "rollback"]


def test_invitations_are_on_the_record_of_the_change(site: Site, helper: User) -> None:
    change = open_by(site.author, site)
    invited(helper, to=change)
    uninvite_person(actor=site.author, change=change, username="helper")

    assert actions_on(change)[-2:] == ["change.invited", "change.uninvited"]


# Words


def test_everyone_who_sees_a_change_comments_on_it_open_or_closed(site: Site, viewer: User) -> None:
    change = discard_change(actor=site.author, change=open_by(site.author, site))

    comment_on_change(actor=viewer, change=change, text='  Why?\r\nI had "read" it <b>all</b>.  ')

    event = AuditEvent.objects.get(action="change.commented")
    assert (event.actor_name, event.facts["text"]) == ("viewer", 'Why?\nI had "read" it <b>all</b>.')


@pytest.mark.parametrize(
    ("text", "code"), [("", "reason"), (" \n ", "reason"), ("x" * (COMMENT_MAX + 1), "invalid")]
)
def test_a_comment_says_something_and_not_too_much(site: Site, text: str, code: str) -> None:
    change = open_by(site.author, site)

    assert refusal_of(lambda: comment_on_change(actor=site.author, change=change, text=text)).code == code
    assert not AuditEvent.objects.filter(action="change.commented").exists()


def test_who_may_not_see_changes_may_not_comment(site: Site, stranger: User) -> None:
    change = open_by(site.author, site)

    assert refusal_of(lambda: comment_on_change(actor=stranger, change=change, text="Hm")).code == "forbidden"


def test_a_comment_does_not_touch_an_approval(site: Site) -> None:
    change = site.approved(service_data("web"))

    comment_on_change(actor=site.author, change=change, text="Tonight, please.")

    before = change.state
    change.refresh_from_db()
    assert (before, change.state, change.votes.count()) == ("approved", "approved", 1)


def test_describing_what_was_sent_back_begins_a_new_round(site: Site) -> None:
    change = submit_change(actor=site.author, change=edit(site.author, site).change)
    request_changes(actor=site.approver, change=change, digest=change.digest, reason="Which shop?")

    describe_change(actor=site.author, change=change, title="The shop in Rome", description="")

    found = Change.objects.get(pk=change.pk)
    assert (found.state, found.title, found.digest, found.votes.count()) == (
        "draft",
        "The shop in Rome",
        "",
        0,
    )


def test_the_system_opens_no_change(site: Site) -> None:
    assert refusal_of(lambda: open_change(actor=None, cluster=site.cluster, title="Mine")).code == "forbidden"
