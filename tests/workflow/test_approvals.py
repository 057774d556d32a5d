"""Four eyes: who can approve what, and what an approval is bound to."""

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.domain.merge import Side
from balancer.models import AuditEvent, Change, Draft, Vote
from balancer.workflow.approvals import approve_change, reject_change, why_not_approved
from balancer.workflow.changes import digest_change
from balancer.workflow.deployments import apply_change
from balancer.workflow.documents import candidate_document
from balancer.workflow.drafts import delete_service, discard_draft, save_draft
from balancer.workflow.editing import invite_person, open_change
from balancer.workflow.errors import Refused
from balancer.workflow.submissions import discard_change, rebase_change, submit_change, withdraw_change
from tests.cast import Site, make_person
from tests.documents import service_data


def code_of(refused: pytest.ExceptionInfo[Refused]) -> str:
    return refused.value.code


@pytest.fixture
def submitted(site: Site) -> Change:
    return submit_change(actor=site.author, change=site.change(service_data("web")))


def test_somebody_else_approves(site: Site, submitted: Change) -> None:
    change = approve_change(
        actor=site.approver, change=submitted, digest=submitted.digest, password_at=timezone.now()
    )

    assert change.state == "approved"
    assert why_not_approved(change) is None


@pytest.mark.parametrize("superuser", [False, True])
def test_the_author_never_approves(site: Site, superuser: bool) -> None:
    site.author.is_superuser = superuser
    site.author.save()
    person = User.objects.get(pk=site.author.pk)
    if not superuser:
        person.groups.add(*site.approver.groups.all())
    change = submit_change(actor=person, change=site.change(service_data("web")))

    with pytest.raises(Refused) as refused:
        approve_change(actor=person, change=change, digest=change.digest, password_at=timezone.now())

    assert code_of(refused) == "own-change"
    assert not Vote.objects.exists()
    assert AuditEvent.objects.filter(action="change.approved.refused", actor_id=person.pk).exists()


@pytest.mark.parametrize("superuser", [False, True])
def test_whoever_once_edited_a_draft_never_approves_even_when_nothing_of_it_is_left(
    site: Site, superuser: bool
) -> None:
    helper = make_person("helper", "Editor", "Approver", superuser=superuser)
    change = site.change(service_data("web"))
    invite_person(actor=site.author, change=change, username="helper")
    save_draft(actor=helper, cluster=site.cluster, change=change, data=service_data("mail", port=25))
    discard_draft(actor=site.author, change=change, service_name="mail")
    submitted = submit_change(actor=site.author, change=change)

    with pytest.raises(Refused) as refused:
        approve_change(actor=helper, change=submitted, digest=submitted.digest, password_at=timezone.now())

    assert code_of(refused) == "own-change"


def test_a_superuser_who_did_not_write_it_approves(superuser: User, submitted: Change) -> None:
    assert (
        approve_change(
            actor=superuser, change=submitted, digest=submitted.digest, password_at=timezone.now()
        ).state
        == "approved"
    )


def test_the_system_cannot_approve(submitted: Change) -> None:
    with pytest.raises(Refused) as refused:
        approve_change(actor=None, change=submitted, digest=submitted.digest, password_at=timezone.now())

    assert code_of(refused) == "own-change"


@pytest.mark.parametrize("name", ["viewer", "operator", "stranger"])
def test_only_an_approver_approves_and_rejects(
    submitted: Change, name: str, request: pytest.FixtureRequest
) -> None:
    person = request.getfixturevalue(name)

    with pytest.raises(Refused) as approving:
        approve_change(actor=person, change=submitted, digest=submitted.digest, password_at=timezone.now())
    with pytest.raises(Refused) as rejecting:
        reject_change(actor=person, change=submitted, digest=submitted.digest, reason="no")

    assert (code_of(approving), code_of(rejecting)) == ("forbidden", "forbidden")


def test_an_approval_of_another_page_is_refused(site: Site, submitted: Change) -> None:
    with pytest.raises(Refused) as refused:
        approve_change(actor=site.approver, change=submitted, digest="0" * 64, password_at=timezone.now())

    assert code_of(refused) == "conflict"


def test_a_rejection_needs_a_reason(site: Site, submitted: Change) -> None:
    with pytest.raises(Refused) as refused:
        reject_change(actor=site.approver, change=submitted, digest=submitted.digest, reason="  ")

    assert code_of(refused) == "reason"


def test_an_approved_change_can_still_be_rejected(site: Site) -> None:
    change = site.approved(service_data("web"))

    rejected = reject_change(actor=site.approver, change=change, digest=change.digest, reason="wrong port")

    assert rejected.state == "rejected"
    assert "rejected" in str(why_not_approved(rejected))


def test_withdrawing_drops_every_vote(site: Site) -> None:
    change = withdraw_change(actor=site.author, change=site.approved(service_data("web")))

    assert (change.state, change.digest) == ("draft", "")
    assert not Vote.objects.exists()


def test_a_change_that_was_edited_after_its_approval_needs_another_one(site: Site) -> None:
    change = withdraw_change(actor=site.author, change=site.approved(service_data("web")))
    save_draft(
        actor=site.author,
        cluster=site.cluster,
        change=change,
        data=service_data("web", port=81),
        original_name="web",
    )
    again = submit_change(actor=site.author, change=change)

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=again)

    assert code_of(refused) == "state"


def test_an_empty_change_cannot_be_submitted(site: Site) -> None:
    with pytest.raises(Refused) as refused:
        submit_change(actor=site.author, change=site.change())

    assert code_of(refused) == "nothing"


def test_a_closed_change_stays_closed(site: Site) -> None:
    change = discard_change(actor=site.author, change=site.change(service_data("web")))

    with pytest.raises(Refused) as refused:
        submit_change(actor=site.author, change=change)

    assert code_of(refused) == "state"


# What an approval is bound to


def test_the_digest_covers_the_service_before_and_after(site: Site) -> None:
    change = site.change(service_data("web"))
    digests = [digest_change(change)]
    draft = Draft.objects.get(change=change)
    draft.after = draft.after | {"port": 81}
    draft.save()
    digests.append(digest_change(change))
    Draft.objects.filter(pk=draft.pk).update(before=draft.after, action="modify")
    digests.append(digest_change(change))

    assert len(set(digests)) == 3


def test_the_digest_covers_the_compiled_rules(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    change = site.approved(service_data("web"))
    monkeypatch.setattr("balancer.workflow.changes.render_ruleset", lambda ruleset: "other rules")

    assert "is not what was submitted and approved" in str(why_not_approved(change))


def test_a_draft_that_was_altered_behind_our_back_is_not_applied(site: Site) -> None:
    change = site.approved(service_data("web"))
    draft = Draft.objects.get(change=change)
    Draft.objects.filter(pk=draft.pk).update(after=draft.after | {"port": 81})

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=change)

    assert code_of(refused) == "not-approved"


def test_a_vote_that_its_own_author_got_into_the_table_does_not_count(site: Site, submitted: Change) -> None:
    Vote.objects.create(
        change=submitted,
        user=site.author,
        verdict="approve",
        digest=submitted.digest,
        at=submitted.submitted_at,
    )
    Change.objects.filter(pk=submitted.pk).update(state="approved")

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=submitted)

    assert code_of(refused) == "not-approved"


# When the live configuration moves


def test_an_approval_survives_while_another_service_moves(site: Site) -> None:
    change = site.approved(service_data("web"))
    site.deploy(service_data("mail", port=25))

    site.finish(apply_change(actor=site.operator, change=change))

    assert set(site.cluster.services.values_list("name", flat=True)) == {"mail", "web"}


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ({"port": 81}, {"port": 82}, "was modified since"),
        ({"port": 81}, None, "was deleted since"),
    ],
)
def test_a_change_whose_service_has_moved_is_stale_and_says_what_moved(
    site: Site, first: dict, second: dict | None, why: str
) -> None:
    site.deploy(service_data("web"))
    change = site.approved(service_data("web", **first))
    other = open_change(actor=site.author, cluster=site.cluster, title="Meanwhile")
    if second is None:
        delete_service(actor=site.author, cluster=site.cluster, change=other, name="web")
    else:
        save_draft(
            actor=site.author,
            cluster=site.cluster,
            change=other,
            data=service_data("web", **second),
            original_name="web",
        )
    site.finish(apply_change(actor=site.operator, change=site.approve(other)))

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=change)

    assert code_of(refused) == "stale"
    assert why in refused.value.message


def test_two_new_services_of_one_name_do_not_both_go_live(site: Site) -> None:
    second = site.approved(service_data("web", port=81))
    site.deploy(service_data("web"))

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=second)

    assert "was created since" in refused.value.message


def test_a_stale_change_is_withdrawn_updated_and_approved_again(site: Site) -> None:
    site.deploy(service_data("web"))
    change = site.approved(service_data("web", port=81))
    site.deploy(service_data("web", port=82))

    change = withdraw_change(actor=site.author, change=change)
    with pytest.raises(Refused) as stale:
        submit_change(actor=site.author, change=change)
    with pytest.raises(Refused) as undecided:
        rebase_change(actor=site.author, change=change)
    rebase_change(actor=site.author, change=change, choices={"web": {"port": Side.MINE}})
    site.finish(apply_change(actor=site.operator, change=site.approve(change)))

    assert (code_of(stale), code_of(undecided)) == ("stale", "conflict")
    assert "web, port" in undecided.value.message
    assert site.cluster.services.get().port == 81


def test_updating_drops_a_draft_that_is_live_already(site: Site) -> None:
    site.deploy(service_data("web"))
    change = site.change(service_data("web", port=81))
    site.deploy(service_data("web", port=81))

    rebase_change(actor=site.author, change=change)

    assert not change.drafts.exists()


def test_a_change_that_would_no_longer_be_valid_is_not_applied(site: Site) -> None:
    change = site.approved(service_data("web"))
    site.deploy(service_data("other"))

    with pytest.raises(Refused) as refused:
        apply_change(actor=site.operator, change=change)

    assert code_of(refused) == "invalid"
    with pytest.raises(Refused):
        candidate_document(change)
