"""Editing: what is saved, where, by whom, and what is refused."""

import pytest
from django.contrib.auth.models import User

from balancer.models import AuditEvent, Change, Draft, Service
from balancer.workflow.documents import candidate_document, live_services
from balancer.workflow.drafts import delete_service, discard_draft, save_draft
from balancer.workflow.editing import current_change, find_current_change, invite_person
from balancer.workflow.errors import Refused
from balancer.workflow.overtaken import Overtaken
from balancer.workflow.submissions import submit_change
from tests.cast import Site, make_person
from tests.documents import backend_data, service_data


def test_an_edit_becomes_a_draft_in_the_authors_change_and_nothing_is_live(site: Site) -> None:
    saved = site.save("web")

    assert saved.draft is not None
    assert (saved.draft.service_name, saved.draft.action, saved.draft.before) == ("web", "create", None)
    assert find_current_change(actor=site.author, cluster=site.cluster) == saved.change
    assert not Service.objects.exists()


def test_the_next_edit_goes_into_the_same_change(site: Site) -> None:
    first, second = site.save("web"), site.save("mail", port=25)

    assert first.change == second.change
    assert [service.name for service in candidate_document(second.change).services] == ["mail", "web"]


def test_invalid_input_comes_back_as_problems_and_opens_no_change(site: Site) -> None:
    data = service_data(port=0, backends=[backend_data(weight=-1)])

    saved = save_draft(actor=site.author, cluster=site.cluster, data=data)

    assert {problem.path for problem in saved.problems} == {"port", "backends[0].weight"}
    assert not saved.saved
    assert not Change.objects.exists()


def test_an_overlap_with_a_live_service_is_a_problem_of_the_edit(site: Site) -> None:
    site.deploy(service_data("web"))

    saved = save_draft(actor=site.author, cluster=site.cluster, data=service_data("other"))

    assert [problem.code for problem in saved.problems] == ["overlap"]
    assert not Draft.objects.filter(service_name="other").exists()


def test_a_new_service_cannot_take_the_name_of_another(site: Site) -> None:
    site.deploy(service_data("web"))

    saved = save_draft(actor=site.author, cluster=site.cluster, data=service_data("web", port=81))

    assert [(problem.path, problem.code) for problem in saved.problems] == [("name", "taken")]


def test_warnings_come_back_with_a_draft_that_was_saved(site: Site) -> None:
    saved = site.save("web", backends=[])

    assert saved.draft is not None
    assert [(problem.path, problem.code) for problem in saved.problems] == [("backends", "no-backend")]


def test_drafting_what_is_live_removes_the_draft(site: Site) -> None:
    site.deploy(service_data("web"))
    site.save("web", original="web", port=81)

    saved = site.save("web", original="web")

    assert saved.draft is None
    assert not Draft.objects.filter(change=saved.change).exists()


def test_a_rename_deletes_the_old_name_and_creates_the_new_one(site: Site) -> None:
    site.deploy(service_data("web"))

    saved = site.save("shop", original="web")

    drafts = Draft.objects.filter(change=saved.change).values_list("service_name", "action")
    assert set(drafts) == {("shop", "create"), ("web", "delete")}


def test_renaming_a_draft_that_is_not_live_leaves_one_draft(site: Site) -> None:
    site.save("web")

    saved = site.save("shop", original="web")

    assert list(saved.change.drafts.values_list("service_name", flat=True)) == ["shop"]


def test_deleting_a_live_service_is_a_draft_too(site: Site) -> None:
    site.deploy(service_data("web"))

    saved = delete_service(actor=site.author, cluster=site.cluster, name="web")

    assert saved.draft is not None
    assert saved.draft.action == "delete"
    assert candidate_document(saved.change).services == ()
    assert Service.objects.filter(name="web").exists()


def test_discarding_a_draft_brings_back_what_is_live(site: Site) -> None:
    site.deploy(service_data("web"))
    saved = site.save("web", original="web", port=81)

    discard_draft(actor=site.author, change=saved.change, service_name="web")

    assert candidate_document(saved.change).services[0].port == 80


def test_a_form_that_was_opened_on_something_else_is_refused(site: Site) -> None:
    site.deploy(service_data("web"))
    seen = live_services(site.cluster)["web"]
    site.save("web", original="web", port=81)

    with pytest.raises(Overtaken) as refused:
        save_draft(
            actor=site.author,
            cluster=site.cluster,
            data=service_data("web", port=82),
            original_name="web",
            seen=seen,
        )

    assert refused.value.code == "conflict"
    assert Draft.objects.get(service_name="web", change__state="draft").after["port"] == 81


def test_everyone_who_edits_is_a_contributor_and_stays_one(site: Site) -> None:
    saved = site.save("web")
    helper = make_person("helper", "Editor")
    invite_person(actor=site.author, change=saved.change, username="helper")
    save_draft(actor=helper, cluster=site.cluster, change=saved.change, data=service_data("mail", port=25))
    discard_draft(actor=site.author, change=saved.change, service_name="mail")

    assert set(saved.change.contributors.all()) == {site.author, helper}


def test_a_submitted_change_cannot_be_edited(site: Site) -> None:
    saved = site.save("web")
    submit_change(actor=site.author, change=saved.change)

    with pytest.raises(Refused) as refused:
        save_draft(
            actor=site.author, cluster=site.cluster, change=saved.change, data=service_data("mail", port=25)
        )

    assert refused.value.code == "state"


def test_an_edit_after_a_submission_opens_a_new_change(site: Site) -> None:
    first = site.save("web")
    submit_change(actor=site.author, change=first.change)

    second = site.save("mail", port=25)

    assert second.change != first.change


@pytest.mark.parametrize("name", ["viewer", "approver", "operator", "stranger"])
def test_only_an_editor_drafts(site: Site, name: str, request: pytest.FixtureRequest) -> None:
    person: User = request.getfixturevalue(name)

    with pytest.raises(Refused) as refused:
        save_draft(actor=person, cluster=site.cluster, data=service_data())

    assert refused.value.code == "forbidden"
    event = AuditEvent.objects.get(action="draft.saved.refused")
    assert (event.actor_id, event.facts["code"]) == (person.pk, "forbidden")


def test_a_change_has_an_author(site: Site) -> None:
    with pytest.raises(Refused):
        current_change(actor=None, cluster=site.cluster)
