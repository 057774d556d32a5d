"""What the console is told."""

from dataclasses import fields
from fractions import Fraction

import pytest
from django.contrib.auth.models import User

from balancer.models import Job, Revision
from balancer.workflow.drafts import save_draft
from balancer.workflow.editing import invite_person
from balancer.workflow.queries import (
    actions_for,
    diff_revisions,
    preview_service,
    service_form,
    view_change,
    view_dashboard,
    view_deployment,
    view_revision,
)
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import backend_data, service_data

WEIGHTS = [backend_data("10.0.0.3", weight=3), *(backend_data(f"10.0.0.{n}") for n in (4, 5, 6))]


def test_a_change_shows_fields_rules_and_exact_shares(site: Site) -> None:
    site.deploy(service_data("web"))
    change = site.change(service_data("web", backends=WEIGHTS))

    view = view_change(change=change, user=site.author)

    (draft,) = view.drafts
    assert [(f.path, f.before, f.after) for f in draft.fields] == [("backends[10.0.0.3:80].weight", "1", "3")]
    assert [(s.endpoint, s.before, s.after) for s in draft.shares] == [
        ("10.0.0.3:80", Fraction(1, 4), Fraction(1, 2)),
        *((f"10.0.0.{n}:80", Fraction(1, 4), Fraction(1, 6)) for n in (4, 5, 6)),
    ]
    (nodes,) = view.rulesets or ()
    assert (nodes.nodes, nodes.base) == (("lb1", "lb2"), "revision 1")
    assert [(t.name, t.added > 0, t.removed > 0) for t in nodes.tables] == [("nat", True, True)]
    assert (view.problems, view.stale, view.contributors) == ((), (), ("author",))


def test_a_change_that_leaves_the_rules_alone_says_so_by_an_empty_difference(site: Site) -> None:
    site.deploy(service_data("web"))
    change = site.change(service_data("web", description="The shop"))
    assert [diff.tables for diff in view_change(change=change, user=site.author).rulesets or ()] == [()]


def test_a_change_that_was_applied_still_shows_what_it_did(site: Site) -> None:
    site.deploy(service_data("web"))
    change = site.cluster.changes.get()
    site.deploy(service_data("web", backends=WEIGHTS))

    view = view_change(change=change, user=site.author)

    assert [draft.action for draft in view.drafts] == ["create"]
    (nodes,) = view.rulesets or ()
    lines = [line for table in nodes.tables for line in table.lines]
    rules = [line.text for line in lines if line.kind == "added" and "-g LB-S-web:" in line.text]
    assert [rule.partition("--every ")[2][:1] for rule in rules[:4]] == ["4", "3", "2", ""]
    assert view.deployment is not None
    assert view.votes[0].user == "approver"
    assert view.votes[0].why_not_counted == ""


@pytest.mark.parametrize(
    ("name", "buttons"),
    [
        ("author", {"withdraw"}),
        ("approver", {"approve", "reject", "request_changes"}),
        ("operator", set()),
        ("viewer", set()),
        ("administrator", {"withdraw", "approve", "reject", "request_changes", "emergency"}),
    ],
)
def test_everybody_sees_the_buttons_that_work_for_them(
    site: Site, name: str, buttons: set[str], request: pytest.FixtureRequest
) -> None:
    person: User = request.getfixturevalue(name)
    change = submit_change(actor=site.author, change=site.change(service_data("web")))

    actions = actions_for(change=change, user=person)

    found = {f.name for f in fields(actions) if getattr(actions, f.name) is True}
    assert found == buttons | {"comment"} | ({"invite"} if name == "author" else set())


def test_an_author_is_told_why_there_is_no_approve_button(site: Site, superuser: User) -> None:
    change = site.change(service_data("web"))
    invite_person(actor=site.author, change=change, username="superuser")
    save_draft(actor=superuser, cluster=site.cluster, change=change, data=service_data("mail", port=25))
    change = submit_change(actor=site.author, change=change)

    actions = actions_for(change=change, user=superuser)

    assert (actions.approve, "somebody else" in actions.why_not_approve) == (False, True)


def test_a_preview_checks_compiles_and_traces_without_saving(site: Site) -> None:
    site.deploy(service_data("web"))

    preview = preview_service(
        cluster=site.cluster, data=service_data("web", backends=WEIGHTS), original_name="web"
    )

    assert "LB-S-web" in preview.ruleset
    assert preview.shares[0].after == Fraction(1, 2)
    assert not site.cluster.changes.filter(state="draft").exists()


def test_a_preview_of_bad_input_names_the_fields(site: Site) -> None:
    preview = preview_service(cluster=site.cluster, data=service_data("web", port="http"))

    assert [problem.path for problem in preview.problems] == ["port"]
    assert (preview.ruleset, preview.shares) == ("", ())


def test_the_form_starts_from_the_draft_where_there_is_one(site: Site) -> None:
    site.deploy(service_data("web"))
    saved = site.save("web", original="web", port=81)

    live = service_form(cluster=site.cluster, name="web")
    drafted = service_form(cluster=site.cluster, name="web", change=saved.change)

    assert live is not None
    assert drafted is not None
    assert (live.data["port"], live.draft, drafted.data["port"]) == (80, None, 81)
    assert drafted.data == saved.draft.after
    assert service_form(cluster=site.cluster, name="nobody") is None


def test_progress_tells_what_each_node_is_doing(site: Site) -> None:
    deployment = site.start(service_data("web"))
    site.run(deployment.jobs.get(node__name="lb1"))

    view = view_deployment(deployment=deployment)

    assert (view.active, view.done, view.cancel.possible) == (True, 1, True)
    done, waiting = view.jobs
    assert [text for _, text in done.steps][-2] == "Read back and verified."
    assert [passed for passed, _ in done.probes] == [True, True]
    assert (done.seconds_left, view.can_confirm) == (None, False)
    assert waiting.waiting_for == "Waiting for the node's worker to take it."
    assert [job.place for job in view.jobs] == ["1st of 2, the canary", "2nd of 2"]


def test_two_revisions_are_compared_in_either_direction(site: Site) -> None:
    first = site.deploy(service_data("web"))
    second = site.deploy(service_data("web", scheduler="random"), service_data("mail", port=25))

    forth, back = diff_revisions(before=first, after=second), diff_revisions(before=second, after=first)

    assert [(s.name, s.action) for s in forth.services] == [("mail", "create"), ("web", "modify")]
    assert [(s.name, s.action) for s in back.services] == [("mail", "delete"), ("web", "modify")]
    assert [(f.path, f.before, f.after) for f in forth.services[1].fields] == [
        ("scheduler", "round-robin", "random"),
    ]
    view = view_revision(revision=Revision.objects.get(pk=second.pk))
    assert (view.previous, view.live) == (first, True)


def test_the_dashboard_counts(site: Site) -> None:
    site.deploy(service_data("web", backends=[*WEIGHTS, backend_data("10.0.0.9", state="draining")]))
    submit_change(actor=site.author, change=site.change(service_data("mail", port=25)))

    view = view_dashboard(cluster=site.cluster)

    assert (view.services, view.backends, view.idle_backends, view.in_review) == (1, 5, 1, 1)
    assert [node.behind for node in view.nodes] == [False, False]
    assert Job.objects.count() == 2
