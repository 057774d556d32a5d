"""Operating a service in the console: buttons, what pages say of overrides, and the late signature."""

import re

import pytest
from django.contrib.auth.models import User

from balancer.models import Cluster, LateReview, Node, Override, Service
from balancer.workflow.revisions import live_revision
from balancer.workflow.submissions import submit_change
from tests.admin.conftest import Login, messages_of
from tests.admin.reading import page
from tests.cast import PASSWORD, Site, make_person
from tests.documents import backend_data, service_data

HEAVY = [backend_data(f"10.0.0.{last}", weight=10) for last in (3, 4)]


@pytest.fixture
def heavy(site: Site) -> Service:
    site.deploy(service_data("web", backends=HEAVY))
    return Service.objects.get(name="web")


def press(login: Login, user: User, row: Service, button: str, **fields: str) -> object:
    data = {"endpoint": "10.0.0.3:80", "do": button, "reason": "disk is full", **fields}
    return login(user).post(f"/balancer/service/{row.pk}/operate/", data, follow=True)


def test_an_operator_drains_a_backend_with_a_reason_and_lifts_it_with_one_click(
    heavy: Service, login: Login, operator: User
) -> None:
    response = press(login, operator, heavy, "draining")

    assert "10.0.0.3:80: drained." in messages_of(response)
    text = page(login, operator, f"/balancer/service/{heavy.pk}/change/")
    assert "draining, weight 10" in text
    assert "Approved: enabled, weight 10." in text
    assert "“disk is full”" in text
    assert "waits for a second person's signature" in text

    override = Override.objects.get()
    lifted = login(operator).post(f"/balancer/override/{override.pk}/lift/", follow=True)

    assert "Lifted." in messages_of(lifted)
    assert lifted.redirect_chain == [(f"/balancer/service/{heavy.pk}/change/", 302)]
    assert "The nodes carry this service as it was approved." in page(
        login, operator, f"/balancer/service/{heavy.pk}/change/"
    )


def test_a_weight_is_moved_within_its_limits_and_a_mistake_keeps_what_was_typed(
    heavy: Service, login: Login, operator: User
) -> None:
    refused = press(login, operator, heavy, "weight", weight="16", reason="warm it up slowly")

    assert "operators can set a weight from 5 to 15" in messages_of(refused)
    assert not Override.objects.exists()
    typed = refused.content.decode()  # type: ignore[attr-defined]
    assert "warm it up slowly" in typed
    assert 'value="16"' in typed

    press(login, operator, heavy, "weight", weight="15")
    assert (Override.objects.get().kind, Override.objects.get().weight) == ("weight", 15)
    assert "3/5" in page(login, operator, f"/balancer/service/{heavy.pk}/change/")


@pytest.mark.parametrize(
    ("button", "fields"),
    [
        ("draining", {"reason": " "}),
        ("draining", {"endpoint": "10.0.0.99:80"}),
        ("draining", {"endpoint": "nonsense"}),
        ("weight", {"weight": ""}),
        ("weight", {"weight": "-1"}),
        ("nonsense", {}),
        ("enabled", {}),
    ],
)
def test_what_makes_no_sense_is_answered_with_a_sentence_and_does_nothing(
    heavy: Service, login: Login, operator: User, button: str, fields: dict[str, str]
) -> None:
    response = press(login, operator, heavy, button, **fields)

    assert response.status_code == 200  # type: ignore[attr-defined]
    assert messages_of(response)
    assert not Override.objects.exists()


@pytest.mark.parametrize("person", ["viewer", "author", "approver"])
def test_who_is_no_operator_sees_the_backends_without_buttons_and_a_forged_press_does_nothing(
    heavy: Service, login: Login, operator: User, request: pytest.FixtureRequest, person: str
) -> None:
    user = request.getfixturevalue(person)
    press(login, operator, heavy, "draining")
    override = Override.objects.get()

    for address in (f"/balancer/service/{heavy.pk}/operate/", f"/balancer/service/{heavy.pk}/change/"):
        text = page(login, user, address)
        assert "draining, weight 10" in text
        assert "Set weight" not in text
        assert "Lift" not in text
    press(login, user, heavy, "draining", endpoint="10.0.0.4:80")
    login(user).post(f"/balancer/override/{override.pk}/lift/")

    override.refresh_from_db()
    assert override.lifted_at is None
    assert Override.objects.count() == 1


def test_an_administrator_operates_on_the_page_with_the_form(
    heavy: Service, login: Login, administrator: User
) -> None:
    text = page(login, administrator, f"/balancer/service/{heavy.pk}/change/")

    assert "Save as draft" in text
    assert "Set weight" in text


def test_lists_shares_and_pages_of_what_is_approved_say_that_overrides_are_in_force(
    site: Site, heavy: Service, login: Login, operator: User, viewer: User
) -> None:
    press(login, operator, heavy, "draining")
    change = submit_change(
        actor=site.author, change=site.change(service_data("web", backends=HEAVY, description="New"))
    )
    live, node = live_revision(site.cluster), Node.objects.get(name="lb1")

    listed = page(login, viewer, "/balancer/service/")
    assert "1 override" in listed
    assert re.search(r"10\.0\.0\.4:80 +1 · 100", listed), "the share that it has now"
    notes = {
        f"/balancer/change/{change.pk}/change/": "They are no part of this change",
        f"/balancer/revision/{live.pk}/change/": "They are in no revision",
        f"/balancer/node/{node.pk}/change/": "They are on their way",
    }
    for address, note in notes.items():
        assert note in page(login, viewer, address)
    assert "in force" in page(login, viewer, "/balancer/override/").lower()


def test_a_change_that_would_leave_a_service_empty_with_the_overrides_says_so(
    site: Site, heavy: Service, login: Login, operator: User, viewer: User
) -> None:
    press(login, operator, heavy, "draining")
    change = submit_change(actor=site.author, change=site.change(service_data("web", backends=HEAVY[:1])))

    text = page(login, viewer, f"/balancer/change/{change.pk}/change/")

    assert "With these overrides web would have no backend that takes new connections." in text


def test_an_override_of_a_backend_that_went_is_listed_as_without_effect(
    site: Site, heavy: Service, login: Login, operator: User
) -> None:
    press(login, operator, heavy, "draining")
    for job in Node.objects.get(name="lb1").jobs.filter(state="queued"):
        site.run(job)
    site.deploy(service_data("web", backends=HEAVY[1:]))

    assert "It has no effect" in page(login, operator, f"/balancer/service/{heavy.pk}/change/")


def test_everybody_sees_what_is_not_signed_yet_and_a_second_person_signs_it(
    heavy: Service, login: Login, operator: User, approver: User, viewer: User
) -> None:
    press(login, operator, heavy, "draining")
    review = LateReview.objects.get()
    shown = "operator drained 10.0.0.3:80 of web"
    assert shown in page(login, viewer, "/")
    assert "Sign…" not in page(login, viewer, "/")
    assert "Sign…" not in page(login, operator, "/"), "nobody signs their own deed"
    assert "Sign…" in page(login, approver, "/")

    text = page(login, approver, f"/balancer/latereview/{review.pk}/change/")
    assert "disk is full" in text
    assert "removed: -A LB-" in text, "the difference in the rules"
    signed = login(approver).post(
        f"/balancer/latereview/{review.pk}/sign/", {"comment": "Disk looked at"}, follow=True
    )

    assert "Signed." in messages_of(signed)
    assert "Disk looked at" in signed.content.decode()
    assert shown not in page(login, viewer, "/").split("Latest deployments")[0]
    assert Override.objects.get().lifted_at is None


def test_a_signature_asks_for_the_password_and_keeps_the_comment_when_it_is_wrong(
    heavy: Service, login: Login, operator: User
) -> None:
    press(login, operator, heavy, "draining")
    review, second = LateReview.objects.get(), make_person("second", "Approver", password=PASSWORD)
    client = login(second)
    session = client.session
    del session["lbadmin_password_at"]
    session.save()
    address = f"/balancer/latereview/{review.pk}/sign/"

    assert b"Your password, to sign" in client.get(f"/balancer/latereview/{review.pk}/change/").content
    wrong = client.post(address, {"comment": "looked at it", "password": "wrong"}, follow=True)
    assert "That is not your password." in messages_of(wrong)
    assert b"looked at it" in wrong.content
    missing = client.post(address, {"comment": "looked at it"}, follow=True)
    assert "Type your password once more" in messages_of(missing)

    client.post(address, {"comment": "looked at it", "password": PASSWORD})

    review.refresh_from_db()
    assert review.signed_by == second


def test_who_did_it_gets_a_sentence_instead_of_a_form(heavy: Service, login: Login, operator: User) -> None:
    press(login, operator, heavy, "draining")
    review = LateReview.objects.get()

    assert "a second person has to sign it" in page(
        login, operator, f"/balancer/latereview/{review.pk}/change/"
    )
    login(operator).post(f"/balancer/latereview/{review.pk}/sign/")

    review.refresh_from_db()
    assert review.signed_by is None


def test_a_policy_that_leaves_no_room_for_weights_says_so(
    heavy: Service, login: Login, operator: User
) -> None:
    Cluster.objects.update(override_weight_percent=0)

    text = page(login, operator, f"/balancer/service/{heavy.pk}/change/")

    assert "leaves operators no other weight" in text
    assert "Set weight" not in text
