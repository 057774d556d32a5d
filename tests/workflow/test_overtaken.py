"""Two people at one service, or at two: whoever comes second is told, and nothing of either is lost."""

from typing import Any

import pytest
from django.contrib.auth.models import User

from balancer.domain.merge import Side
from balancer.models import AuditEvent, Change, Draft
from balancer.workflow.deployments import apply_change
from balancer.workflow.documents import live_services
from balancer.workflow.drafts import delete_service, discard_draft, save_draft
from balancer.workflow.overtaken import Overtaken
from balancer.workflow.queries import view_change
from balancer.workflow.submissions import rebase_change, submit_change, withdraw_change
from tests.cast import Site, make_person
from tests.documents import Data, backend_data, service_data
from tests.workflow.deeds import edit, go_live, invited, open_by, refusal_of


@pytest.fixture
def web(site: Site) -> Site:
    site.deploy(service_data("web"), service_data("mail", port=25))
    return site


@pytest.fixture
def other(db: None) -> User:
    """Somebody else who edits."""
    return make_person("other", "Editor")


def shown(site: Site, change: Change | None = None, name: str = "web") -> Data:
    """The service as a form shows it now."""
    draft = Draft.objects.filter(change=change, service_name=name).first() if change else None
    return draft.after if draft else live_services(site.cluster)[name]


def overtaken_by(person: User, site: Site, change: Change, data: Data, *, seen: Data) -> Overtaken:
    """What a person is told who saves a form that was opened on `seen`."""
    refusal = refusal_of(
        lambda: save_draft(
            actor=person, cluster=site.cluster, change=change, data=data, original_name="web", seen=seen
        )
    )
    assert isinstance(refusal, Overtaken)
    return refusal


class TestOneDraft:
    @pytest.fixture
    def shared(self, web: Site, other: User) -> Change:
        """A change of the author with a draft of web in it, which the other one may edit too."""
        change = open_by(web.author, web)
        edit(web.author, web, change, description="The shop")
        invited(other, to=change)
        return change

    def test_the_second_is_told_who_changed_it_and_what(self, web: Site, other: User, shared: Change) -> None:
        seen = shown(web, shared)
        edit(other, web, shared, port=81, description="The shop", seen=seen)

        told = overtaken_by(web.author, web, shared, seen | {"scheduler": "random"}, seen=seen)

        assert told.message.startswith("other changed web on ")
        assert (told.code, told.by, told.seen["port"], told.now["port"]) == ("conflict", "other", 80, 81)

    def test_nothing_is_saved_over_the_first_and_the_refusal_is_on_record(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = shown(web, shared)
        edit(other, web, shared, port=81, description="The shop", seen=seen)

        overtaken_by(web.author, web, shared, seen | {"port": 82}, seen=seen)

        draft = Draft.objects.get(change=shared)
        assert (draft.after["port"], draft.updated_by) == (81, other)
        event = AuditEvent.objects.get(action="draft.saved.refused")
        assert (event.actor_name, event.object_id) == ("author", str(shared.pk))

    def test_edits_of_different_fields_are_both_in_what_is_proposed_next(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = shown(web, shared)
        heavier = [backend_data("10.0.0.3", weight=3), *seen["backends"][1:]]
        edit(other, web, shared, port=81, description="The shop", backends=heavier, seen=seen)

        told = overtaken_by(web.author, web, shared, seen | {"scheduler": "random"}, seen=seen)
        assert told.merge.clashes == ()
        saved = save_draft(
            actor=web.author,
            cluster=web.cluster,
            change=shared,
            data=told.merge.data,
            original_name="web",
            seen=told.now,
        )

        after = saved.draft.after
        assert (after["port"], after["scheduler"], after["backends"][0]["weight"]) == (81, "random", 3)

    def test_where_both_changed_the_same_the_proposal_keeps_mine_and_names_theirs(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = shown(web, shared)
        edit(other, web, shared, port=81, description="The shop", seen=seen)

        told = overtaken_by(web.author, web, shared, seen | {"port": 82}, seen=seen)

        assert [(c.path, c.base, c.theirs, c.mine) for c in told.merge.clashes] == [("port", 80, 81, 82)]
        assert told.merge.data["port"] == 82

    def test_a_third_edit_in_between_is_told_again(self, web: Site, other: User, shared: Change) -> None:
        seen = shown(web, shared)
        edit(other, web, shared, port=81, description="The shop", seen=seen)
        told = overtaken_by(web.author, web, shared, seen | {"scheduler": "random"}, seen=seen)
        edit(other, web, shared, port=83, description="The shop", seen=told.now)

        again = overtaken_by(web.author, web, shared, told.merge.data, seen=told.now)

        assert (again.now["port"], again.merge.data["port"]) == (83, 83)
        assert again.merge.data["scheduler"] == "random"

    def test_a_service_that_was_deleted_meanwhile_is_told_and_can_be_proposed_anew(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = shown(web, shared)
        delete_service(actor=other, cluster=web.cluster, change=shared, name="web")

        told = overtaken_by(web.author, web, shared, seen | {"port": 82}, seen=seen)
        saved = save_draft(actor=web.author, cluster=web.cluster, change=shared, data=told.merge.data)

        assert told.message.startswith("other took out web")
        assert (told.now, [c.path for c in told.merge.clashes]) == (None, [""])
        assert (saved.draft.action, saved.draft.after["port"]) == ("modify", 82)

    def test_a_draft_that_was_taken_out_meanwhile_is_told_with_the_name_of_who_did_it(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = shown(web, shared)
        discard_draft(actor=other, change=shared, service_name="web")

        told = overtaken_by(web.author, web, shared, seen | {"port": 82}, seen=seen)

        assert (told.by, told.now["description"]) == ("other", "")

    def test_a_new_service_that_was_taken_out_meanwhile_is_told_with_the_right_name(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = edit(web.author, web, shared, "dns", port=53).draft.after
        delete_service(actor=other, cluster=web.cluster, change=shared, name="dns")

        refusal = refusal_of(
            lambda: save_draft(
                actor=web.author,
                cluster=web.cluster,
                change=shared,
                data=seen | {"port": 54},
                original_name="dns",
                seen=seen,
            )
        )

        assert (refusal.by, refusal.now) == ("other", None)

    def test_wrong_input_is_told_before_anything_else_and_saves_nothing(
        self, web: Site, other: User, shared: Change
    ) -> None:
        seen = shown(web, shared)
        edit(other, web, shared, port=81, description="The shop", seen=seen)

        saved = save_draft(
            actor=web.author,
            cluster=web.cluster,
            change=shared,
            data=seen | {"port": 0},
            original_name="web",
            seen=seen,
        )

        assert [problem.path for problem in saved.problems] == ["port"]
        assert Draft.objects.get(change=shared).after["port"] == 81

    def test_a_save_over_what_has_not_changed_goes_through(self, web: Site, shared: Change) -> None:
        seen = shown(web, shared)

        assert edit(web.author, web, shared, port=81, seen=seen).draft.after["port"] == 81


class TestLiveMoves:
    def test_under_a_form_that_is_open_it_is_told_whose_edit_that_was(self, web: Site, other: User) -> None:
        seen = shown(web)
        change = open_by(web.author, web)
        theirs = edit(other, web, open_by(other, web), port=81).change
        go_live(web, theirs)
        web.deploy(service_data("mail", port=26))

        told = overtaken_by(web.author, web, change, seen | {"scheduler": "random"}, seen=seen)

        assert told.by == "other"
        assert (told.merge.data["port"], told.merge.data["scheduler"]) == (81, "random")

    def test_under_a_draft_saving_the_draft_again_does_not_undo_what_others_made_live(
        self, web: Site, other: User
    ) -> None:
        mine = edit(web.author, web, open_by(web.author, web), scheduler="random").change
        go_live(web, edit(other, web, open_by(other, web), port=81).change)

        edit(web.author, web, mine, scheduler="random", description="The shop")

        view = view_change(change=mine, user=web.author)
        assert "modified since" in view.stale[0]
        assert "port" not in {field.path for field in view.drafts[0].fields}
        rebase_change(actor=web.author, change=mine)
        after = Draft.objects.get(change=mine).after
        assert (after["port"], after["scheduler"], after["description"]) == (81, "random", "The shop")

    def test_under_a_draft_that_is_taken_out_nothing_is_left_of_it(self, web: Site, other: User) -> None:
        mine = edit(web.author, web, open_by(web.author, web), scheduler="random").change
        go_live(web, edit(other, web, open_by(other, web), port=81).change)

        discard_draft(actor=web.author, change=mine, service_name="web")

        assert not mine.drafts.exists()

    def test_under_a_draft_of_a_service_that_is_gone_by_now(self, web: Site, other: User) -> None:
        mine = edit(web.author, web, open_by(web.author, web), scheduler="random").change
        theirs = open_by(other, web)
        delete_service(actor=other, cluster=web.cluster, change=theirs, name="web")
        go_live(web, theirs)

        undecided = refusal_of(lambda: rebase_change(actor=web.author, change=mine))
        rebase_change(actor=web.author, change=mine, choices={"web": {"": Side.MINE}})

        assert "web, the whole service" in undecided.message
        draft = Draft.objects.get(change=mine)
        assert (draft.action, draft.after["scheduler"]) == ("create", "random")

    def test_choosing_theirs_everywhere_leaves_nothing_to_propose(self, web: Site, other: User) -> None:
        mine = edit(web.author, web, open_by(web.author, web), port=82).change
        go_live(web, edit(other, web, open_by(other, web), port=81).change)

        rebase_change(actor=web.author, change=mine, choices={"web": {"port": Side.THEIRS}})

        assert not mine.drafts.exists()

    def test_a_choice_for_something_else_decides_nothing(self, web: Site, other: User) -> None:
        mine = edit(web.author, web, open_by(web.author, web), port=82).change
        go_live(web, edit(other, web, open_by(other, web), port=81).change)
        before = shown(web, mine)

        refusal = refusal_of(
            lambda: rebase_change(actor=web.author, change=mine, choices={"web": {"weight": Side.MINE}})
        )

        assert refusal.code == "conflict"
        assert shown(web, mine) == before


class TestTwoPeopleAtOnce:
    def test_at_different_services_both_go_through_and_neither_carries_the_others_edits(
        self, web: Site, other: User
    ) -> None:
        mine = edit(web.author, web, open_by(web.author, web), port=81).change
        theirs = edit(other, web, open_by(other, web), "mail", port=26).change
        mine, theirs = web.approve(mine), web.approve(theirs)

        first = apply_change(actor=web.operator, change=mine)
        web.finish(first)
        after_first = ports_of(web)
        web.finish(apply_change(actor=web.operator, change=theirs))

        assert after_first == {"web": 81, "mail": 25}
        assert ports_of(web) == {"web": 81, "mail": 26}
        assert [d.service_name for d in mine.drafts.all()] == ["web"]
        assert [d.service_name for d in theirs.drafts.all()] == ["mail"]

    @pytest.mark.parametrize(
        ("fields", "choices", "expected"),
        [
            ({"scheduler": "random"}, {}, (81, "random")),
            ({"port": 82}, {"web": {"port": Side.MINE}}, (82, "round-robin")),
            (
                {"port": 82, "scheduler": "random"},
                {"web": {"port": Side.THEIRS}},
                (81, "random"),
            ),
        ],
    )
    def test_at_one_service_the_second_is_told_sees_both_sides_and_loses_nothing(
        self, web: Site, other: User, fields: Data, choices: Any, expected: tuple[int, str]
    ) -> None:
        theirs = edit(other, web, open_by(other, web), port=81).change
        mine = web.approve(edit(web.author, web, open_by(web.author, web), **fields).change)
        go_live(web, theirs)

        told = refusal_of(lambda: apply_change(actor=web.operator, change=mine))
        mine = withdraw_change(actor=web.author, change=mine)
        refused = refusal_of(lambda: submit_change(actor=web.author, change=mine))
        (move,) = view_change(change=mine, user=web.author).moves
        rebase_change(actor=web.author, change=mine, choices=choices)
        go_live(web, mine)

        assert (told.code, refused.code) == ("stale", "stale")
        assert [(f.path, f.before, f.after) for f in move.live] == [("port", "80", "81")]
        assert [c.path for c in move.clashes] == (["port"] if choices else [])
        live = web.cluster.services.get(name="web")
        assert (live.port, live.scheduler) == expected


def ports_of(site: Site) -> dict[str, int]:
    return dict(site.cluster.services.values_list("name", "port"))
