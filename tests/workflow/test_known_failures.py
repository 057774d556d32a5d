"""What goes wrong in products that manage changes, each as the thing that does not happen here."""

from django.contrib.auth.models import User
from django.utils import timezone

from balancer.models import Change, Revision, Vote
from balancer.workflow.approvals import approve_change, why_not_approved
from balancer.workflow.clusters import create_person
from balancer.workflow.deployments import apply_change
from balancer.workflow.documents import live_services
from balancer.workflow.drafts import discard_draft
from balancer.workflow.editing import uninvite_person
from balancer.workflow.policies import record_person, standing_of, update_policy
from balancer.workflow.submissions import submit_change, withdraw_change
from tests.cast import PASSWORD, Site, make_person
from tests.documents import service_data
from tests.workflow.deeds import approve, edit, invited, open_by, refusal_of, submitted_by


def test_an_approval_does_not_survive_an_edit(site: Site) -> None:
    change = withdraw_change(actor=site.author, change=site.approved(service_data("web")))
    edit(site.author, site, change, port=22)
    change = submit_change(actor=site.author, change=change)

    assert (change.state, Vote.objects.count()) == ("submitted", 0)
    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "state"


def test_an_author_does_not_edit_the_approvers_or_what_an_approval_needs(site: Site) -> None:
    boss = make_person("boss", "Administrator", superuser=True)
    change = submitted_by(boss, site)

    eased = refusal_of(
        lambda: update_policy(actor=boss, cluster=site.cluster, approvals=0, critical_approvals=0)
    )
    record_person(actor=boss, person=site.approver, was=standing_of(site.approver), changed=["password"])
    taken_over = refusal_of(lambda: approve(site.approver, change))

    assert (eased.code, taken_over.code) == ("own-change", "not-eligible")
    assert Change.objects.get().state == "submitted"


def test_a_co_author_does_not_approve_even_with_no_line_left_and_no_invitation(site: Site) -> None:
    helper = make_person("helper", "Administrator", superuser=True)
    change = open_by(site.author, site)
    edit(site.author, site, change)
    invited(helper, to=change)
    edit(helper, site, change, "mail", port=25)
    discard_draft(actor=site.author, change=change, service_name="mail")
    uninvite_person(actor=site.author, change=change, username="helper")
    submit_change(actor=site.author, change=change)

    assert refusal_of(lambda: approve(helper, change)).code == "own-change"


def test_nothing_is_pushed_into_a_change_after_its_approval(site: Site) -> None:
    change = site.approved(service_data("web"))

    pushed = refusal_of(lambda: edit(site.author, site, change, "backdoor", port=22))
    site.finish(apply_change(actor=site.operator, change=change))

    assert pushed.code == "state"
    assert set(live_services(site.cluster)) == {"web"}


def test_what_others_have_pending_does_not_ride_along_with_one_persons_apply(site: Site) -> None:
    other = make_person("other", "Editor")
    drafted = edit(other, site, open_by(other, site), "draft", port=1001).change
    waiting = submitted_by(other, site, "waiting", port=1002)
    approved = site.approve(edit(other, site, open_by(other, site), "approved", port=1003).change)

    revision = site.deploy(service_data("web"))

    assert set(live_services(site.cluster)) == {"web"}
    assert all(f'"{name}"' not in revision.document for name in ("draft", "waiting", "approved"))
    states = [Change.objects.get(pk=c.pk).state for c in (drafted, waiting, approved)]
    assert states == ["draft", "submitted", "approved"]


def test_nobody_approves_what_they_were_not_shown(site: Site) -> None:
    change = submitted_by(site.author, site)
    read = change.digest
    change = withdraw_change(actor=site.author, change=change)
    edit(site.author, site, change, port=22)
    change = submit_change(actor=site.author, change=change)
    other = submitted_by(site.author, site, "mail", port=25)
    change.refresh_from_db()

    from_old_page = refusal_of(lambda: approve_page(site.approver, change, read))
    from_another_page = refusal_of(lambda: approve_page(site.approver, change, other.digest))
    from_no_page = refusal_of(lambda: approve_page(site.approver, change, ""))

    assert [r.code for r in (from_old_page, from_another_page, from_no_page)] == ["conflict"] * 3
    assert not Vote.objects.exists()


def approve_page(person: User, change: Change, digest: str) -> None:
    approve_change(actor=person, change=change, digest=digest, password_at=timezone.now())


def test_a_second_account_that_an_author_made_is_no_second_pair_of_eyes(site: Site) -> None:
    boss = make_person("boss", "Administrator")
    change = submitted_by(boss, site)
    puppet = create_person(actor=boss, username="puppet", password=PASSWORD, roles=("Approver",))

    assert refusal_of(lambda: approve(puppet, change)).code == "not-eligible"


def test_a_row_in_the_table_of_votes_is_not_an_approval(site: Site) -> None:
    change = submitted_by(site.author, site)
    Vote.objects.create(
        change=change, user=site.author, verdict="approve", digest=change.digest, at=change.submitted_at
    )
    Change.objects.filter(pk=change.pk).update(state="approved")

    assert "lacks one valid approval" in str(why_not_approved(Change.objects.get(pk=change.pk)))
    assert refusal_of(lambda: apply_change(actor=site.operator, change=change)).code == "not-approved"
    assert list(Revision.objects.values_list("number", flat=True)) == [0]
