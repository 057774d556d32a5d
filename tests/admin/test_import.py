"""A document in and out: what it would do is shown before it is saved, and no input ends in an error."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from balancer.domain.codec import dump_document
from balancer.models import Draft
from balancer.workflow import editing
from balancer.workflow.clusters import create_cluster
from tests.admin.conftest import Login, messages_of
from tests.admin.reading import drafts, text_of
from tests.cast import Site
from tests.documents import backend_data, document, document_data, service_data

IMPORT = "/balancer/service/import/"
EXPORT = "/balancer/service/export/"


@pytest.fixture
def two(site: Site) -> Site:
    """web and api, live."""
    site.deploy(service_data("web"), service_data("api", port=81))
    return site


@pytest.fixture
def editor(two: Site, login: Login) -> Client:
    return login(two.author)


def sent(two: Site, text: object, **changed: Any) -> dict[str, Any]:
    text = text if isinstance(text, str) else json.dumps(text)
    return {"cluster": str(two.cluster.pk), "text": text, "do": "preview", **changed}


def save(client: Client, fields: dict[str, Any]) -> Any:
    token = client.post(IMPORT, fields).context["plan"].token
    return client.post(IMPORT, fields | {"do": "save", "previewed": token}, follow=True)


def test_the_list_leads_to_both(editor: Client) -> None:
    page = editor.get("/balancer/service/").content.decode()

    assert f'href="{IMPORT}"' in page
    assert f'href="{EXPORT}"' in page


def test_a_preview_counts_and_shows_what_would_become_of_each(two: Site, editor: Client) -> None:
    new = service_data("mail", port=25, backends=[backend_data()])
    text = document_data(service_data("web", port=8080), new)

    response = editor.post(IMPORT, sent(two, text, replace="on"))

    assert "1 created, 1 modified, 1 deleted" in text_of(response)
    assert "mail add New eth0 · any:25/tcp, 1 backend" in text_of(response)
    assert "Port: 80 → becomes 8080" in text_of(response)
    assert "api delete Deleted eth0 · any:81/tcp, 4 backends" in text_of(response)
    assert drafts() == {}


def test_services_that_are_not_named_stay_unless_they_are_to_go(two: Site, editor: Client) -> None:
    text = document_data(service_data("web", port=8080))

    save(editor, sent(two, text))
    kept = drafts()
    save(editor, sent(two, text, replace="on"))

    assert set(kept) == {"web"}
    assert drafts()["api"] is None


def test_what_was_shown_is_saved_in_the_change_that_is_edited_in(two: Site, editor: Client) -> None:
    change = editing.open_change(actor=two.author, cluster=two.cluster, title="Mine")

    response = save(editor, sent(two, document_data(service_data("web"), service_data("mail", port=25))))

    assert f"1 service saved as drafts in change #{change.pk}" in messages_of(response)
    assert list(change.drafts.values_list("service_name", "action")) == [("mail", "create")]


def test_a_file_is_kept_in_the_form_and_saved_from_there(two: Site, editor: Client) -> None:
    text = json.dumps(
        document_data(service_data("mail", port=25, description="Für \N{ROCKET}")), ensure_ascii=False
    )
    file = SimpleUploadedFile("edge.json", b"\xef\xbb\xbf" + text.encode())

    seen = editor.post(IMPORT, sent(two, "ignored", file=file))
    kept = seen.context["form"]["text"].value()
    editor.post(IMPORT, sent(two, kept, do="save", previewed=seen.context["plan"].token))

    assert kept == text
    assert drafts()["mail"]["description"] == "Für \N{ROCKET}"


def test_nothing_is_saved_that_was_not_shown(two: Site, editor: Client) -> None:
    first = sent(two, document_data(service_data("mail", port=25)))
    token = editor.post(IMPORT, first).context["plan"].token
    other = sent(two, document_data(service_data("post", port=26)), do="save", previewed=token)

    response = editor.post(IMPORT, other)

    assert "not what the last preview showed" in text_of(response)
    assert drafts() == {}


NO_DOCUMENTS = [
    ("", "Paste a document, or choose a file that has one."),
    (" \n", "Paste a document, or choose a file that has one."),
    ("{", "This is not valid JSON"),
    ("{'services': []}", "This is not valid JSON"),
    ("\N{ROCKET}", "This is not valid JSON"),
    ("[" * 100_000, "This is not valid JSON"),
    ("9" * 5000, "This is not valid JSON"),
    ('{"services": NaN}', "NaN is not a JSON number"),
    ("[]", "A document is a JSON object"),
    ("null", "A document is a JSON object"),
    ("{}", "The list of services is missing"),
    ('{"services": [], "services": []}', "appears twice"),
    ('{"services": [], "x\\"<b>\\ud800": 1}', "is not known"),
    ('{"schema": 2, "services": []}', "This version reads schema 1"),
    ('{"services": [3]}', "service number 1 : A service is a JSON object"),
    ('{"services": [{"name": "web", "interfase": "eth0"}]}', "Did you mean 'interface'?"),
    ("a\0b", "Null characters are not allowed"),
]
SERVICES = [
    ({"weight": 3}, "is not known"),
    ({"name": 'quo"te'}, "Name must be 1 to 63 letters"),
    ({"name": "new\nline"}, "Name must be 1 to 63 letters"),
    ({"name": "\N{ROCKET}"}, "Name must be 1 to 63 letters"),
    ({"name": "<script>alert(1)</script>"}, "Name must be 1 to 63 letters"),
    ({"port": 0}, "Port must be a whole number from 1 to 65535"),
    ({"port": 10**9}, "Port must be a whole number from 1 to 65535"),
    ({"port": "80"}, "Port must be a whole number from 1 to 65535"),
    ({"backends": [backend_data(weight=-1)]}, "Weight must be a whole number from 1 to 256"),
    ({"backends": [backend_data(), backend_data()]}, "is already backend number 1"),
    ({"description": "\ud800"}, "Description must be"),
    ({"description": "bell\a"}, "must not contain control characters"),
]


@pytest.mark.parametrize("do", ["preview", "save"])
def test_what_is_no_document_is_answered_with_a_sentence_and_stays_in_the_form(
    do: str, two: Site, editor: Client, subtests: pytest.Subtests
) -> None:
    for text, said in NO_DOCUMENTS:
        with subtests.test(said):
            response = editor.post(IMPORT, sent(two, text, do=do))

            assert said.replace("'", "&#x27;") in response.content.decode() or said in text_of(response)
            assert response.context["form"]["text"].value() == text
            assert drafts() == {}


def test_a_service_that_is_wrong_is_named_by_its_place(
    two: Site, editor: Client, subtests: pytest.Subtests
) -> None:
    for wrong, said in SERVICES:
        with subtests.test(said, wrong=wrong):
            text = document_data(service_data("web"), service_data("mail", port=25) | wrong)

            response = editor.post(IMPORT, sent(two, text))

            assert "service number 2" in text_of(response)
            assert said in text_of(response)
            assert "<script>alert" not in response.content.decode()
            assert drafts() == {}


def test_a_service_that_gets_in_the_way_of_another_is_named(two: Site, editor: Client) -> None:
    response = editor.post(
        IMPORT, sent(two, document_data(service_data("80"), service_data("mail", port=25)))
    )

    assert "Nothing was saved" in text_of(response)
    assert {problem.where.partition(",")[0] for problem in response.context["plan"].problems} <= {"80", "web"}
    assert drafts() == {}


def test_what_is_live_already_is_nothing_to_draft(two: Site, editor: Client) -> None:
    response = editor.post(IMPORT, sent(two, document_data(service_data("web"))))

    assert "live or proposed already" in text_of(response)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Paste a document, or choose a file that has one."),
        (b"\xff\xfe{\0}\0", "This file is not text in UTF-8."),
        (b"\x89PNG\r\n\x1a\n\0\0", "This file is not text in UTF-8."),
        (b"not json", "This is not valid JSON"),
        (b'{"services": []}' + b" " * 2_000_000, "at most 2 MB here; this one has 2.0 MB"),
        (b" " * 12_000_000, "at most 2 MB here; this one has 12.0 MB"),
    ],
    ids=["empty", "utf-16", "picture", "prose", "too big", "much too big"],
)
def test_a_file_that_is_no_document_is_answered_with_a_sentence(
    content: bytes, said: str, two: Site, editor: Client
) -> None:
    response = editor.post(IMPORT, sent(two, "", file=SimpleUploadedFile("x.json", content)))

    assert said in text_of(response)
    assert drafts() == {}


def test_a_text_that_is_too_long_is_answered_with_a_sentence(two: Site, editor: Client) -> None:
    response = editor.post(IMPORT, sent(two, '{"services": []}' + "\r\n" * 2_000_000))

    assert "at most 2 MB here; this one has 2.0 MB" in text_of(response)


@pytest.mark.parametrize("cluster", ["", "999", "x", "9" * 5000])
def test_a_cluster_that_is_not_there_is_answered_with_a_sentence(
    cluster: str, two: Site, editor: Client
) -> None:
    text = document_data(service_data("mail", port=25))

    response = editor.post(IMPORT, sent(two, text, cluster=cluster))

    assert response.status_code == 200
    assert response.context["form"].errors["cluster"][0] in text_of(response)
    assert drafts() == {}


def test_where_there_are_several_clusters_one_is_chosen(two: Site, editor: Client) -> None:
    west = create_cluster(actor=None, name="west")

    page = editor.get(IMPORT).content.decode()
    save(editor, sent(two, document_data(service_data("web")), cluster=str(west.pk)))

    assert 'name="cluster"' in page
    assert Draft.objects.get(change__state="draft").change.cluster == west


def test_who_may_not_draft_imports_nothing(two: Site, login: Login, viewer: User) -> None:
    client = login(viewer)
    fields = sent(two, document_data(service_data("mail", port=25)), do="save")

    assert "may not draft" in messages_of(client.post(IMPORT, fields, follow=True))
    assert f'href="{IMPORT}"' not in client.get("/balancer/service/").content.decode()
    assert drafts() == {}


def test_what_is_live_is_exported_as_it_is(two: Site, login: Login, viewer: User) -> None:
    response = login(viewer).get(EXPORT, {"cluster": two.cluster.pk})

    assert response.content.decode() == dump_document(
        document(service_data("web"), service_data("api", port=81))
    )
    assert response.headers["Content-Disposition"] == 'attachment; filename="edge.json"'
    assert response.headers["Content-Type"] == "application/json"


def test_what_is_proposed_is_exported_for_who_asks_for_it(two: Site, editor: Client) -> None:
    saved = two.save("mail", port=25)

    live, mine = (editor.get(EXPORT, {"drafts": flag}) for flag in ("", "1"))

    assert [s["name"] for s in live.json()["services"]] == ["api", "web"]
    assert [s["name"] for s in mine.json()["services"]] == ["api", "mail", "web"]
    assert f"edge-change-{saved.change.pk}.json" in mine.headers["Content-Disposition"]


def test_what_was_exported_comes_back_as_nothing_new(two: Site, editor: Client) -> None:
    text = editor.get(EXPORT).content.decode()

    assert "live or proposed already" in text_of(editor.post(IMPORT, sent(two, text, replace="on")))


@pytest.mark.parametrize("cluster", ["999", "x", "9" * 5000])
def test_a_document_of_no_cluster_is_answered(cluster: str, two: Site, editor: Client) -> None:
    assert "There is no such cluster" in messages_of(editor.get(EXPORT, {"cluster": cluster}, follow=True))


def test_a_stranger_exports_nothing(two: Site, login: Login, stranger: User) -> None:
    assert login(stranger).get(EXPORT).status_code == 403
