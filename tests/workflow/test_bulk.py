"""Several services at once: all of them become drafts, or none and the problems say why."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import User

from balancer.domain.codec import dump_document, parse_service
from balancer.domain.types import (
    Access,
    AllDown,
    Health,
    HealthKind,
    Persistence,
    Service,
    SourceNat,
    SourceNatMode,
)
from balancer.models import AuditEvent, Change, Draft
from balancer.workflow.bulk import FIELDS, Proposed, edit_services, import_document
from balancer.workflow.bulk_values import HEALTH, LIMITS, LISTS, check_value
from balancer.workflow.documents import candidate_document, live_document
from balancer.workflow.editing import find_current_change
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import backend_data, service_data
from tests.workflow.deeds import edit, go_live, refusal_of

NAMES = ("dns", "mail", "web")


@pytest.fixture
def three(site: Site) -> Site:
    """Three services that are live; dns has one backend that the others do not have."""
    site.deploy(
        service_data("web"),
        service_data("mail", port=25),
        service_data("dns", port=53, backends=[backend_data("10.0.0.9")]),
    )
    return site


def set_on(site: Site, *names: str, field: str, value: Any, backend: str = "") -> Proposed:
    return edit_services(
        actor=site.author, cluster=site.cluster, names=names, field=field, value=value, backend=backend
    )


def import_text(site: Site, *services: dict[str, Any], replace: bool = False, **top: Any) -> Proposed:
    text = json.dumps({"services": list(services), **top})
    return import_document(actor=site.author, cluster=site.cluster, text=text, replace=replace)


def drafts_by_name(site: Site) -> dict[str, str]:
    change = find_current_change(actor=site.author, cluster=site.cluster)
    return dict(Draft.objects.filter(change=change).values_list("service_name", "action"))


# One field of several services

VALUES = {
    "enabled": False,
    "critical": True,
    "interface": "eth1",
    "scheduler": "random",
    "source_nat.mode": "none",
    "access.deny": {"add": ["203.0.113.0/24"], "remove": []},
    "access.allow": {"add": ["203.0.113.0/24"], "remove": []},
    "access.limits": {"connections_per_source": 20},
    "access.drop_invalid": False,
    "access.syn_proxy": True,
    "access.log_refused": True,
    "health": {"kind": "tcp", "interval": 9},
    "description": "Until Friday",
    "backends.state": "draining",
    "backends.weight": 7,
    "backends.priority": 7,
    "additional_interfaces": ["eth1", "eth2"],
    "from_node": True,
    "slow_start": 30,
    "persistence.mode": "source",
    "persistence.timeout": 60,
    "persistence.prefix": 24,
    "source_nat.address": "198.51.100.1",
}
FIRST = {
    "backends.priority": ("scheduler", "failover"),
    "slow_start": ("scheduler", "random"),
    "persistence.timeout": ("persistence.mode", "source"),
    "persistence.prefix": ("persistence.mode", "source"),
}
"""What has to be chosen before the field can be set."""


@pytest.mark.parametrize("field", FIELDS)
def test_one_field_of_several_services_becomes_a_draft_of_each(three: Site, field: str) -> None:
    backend = "10.0.0.3:80"
    if field in FIRST:
        set_on(three, "web", field=FIRST[field][0], value=FIRST[field][1])
    done = set_on(three, "web", field=field, value=VALUES[field], backend=backend)

    after = Draft.objects.get(change=done.change).after
    head, _, rest = field.partition(".")
    if head == "backends":
        assert [one[rest] for one in after["backends"] if one["address"] == "10.0.0.3"] == [VALUES[field]]
        assert all(one[rest] != VALUES[field] for one in after["backends"] if one["address"] != "10.0.0.3")
    elif field in LISTS:
        assert after[head][rest] == VALUES[field]["add"]
    elif field in {LIMITS, HEALTH}:
        assert after[head].items() >= VALUES[field].items()
    else:
        assert (after[head][rest] if rest else after[head]) == VALUES[field]


def test_networks_are_added_and_taken_out_and_the_others_of_each_list_stay(site: Site) -> None:
    site.deploy(
        service_data("web", access={"deny": ["192.0.2.0/24", "198.51.100.7"]}),
        service_data("mail", port=25, access={"deny": ["203.0.113.0/24"]}),
    )

    value = {"add": ["203.0.113.0/24", "10.0.0.0/8"], "remove": ["198.51.100.7/32", "198.51.100.7"]}
    done = set_on(site, "web", "mail", field="access.deny", value=value)

    assert done.saved
    found = {name: list(map(str, service_of_draft(name).access.deny)) for name in done.names}
    assert found == {
        "web": ["10.0.0.0/8", "192.0.2.0/24", "203.0.113.0/24"],
        "mail": ["10.0.0.0/8", "203.0.113.0/24"],
    }


def test_a_network_to_be_taken_out_that_nobody_has_is_told_and_nothing_is_saved(three: Site) -> None:
    value = {"add": [], "remove": ["10.0.0.0/8"]}
    done = set_on(three, *NAMES, field="access.deny", value=value)

    assert [(problem.path, problem.code) for problem in done.problems] == [("remove[0]", "unknown")]
    assert not Change.objects.filter(state="draft").exists()


def test_more_networks_than_can_be_edited_at_once_are_refused_before_any_is_looked_at() -> None:
    services = [service_data("web", access={"deny": []})] * 51
    value = {"add": ["nonsense"] * 10_000, "remove": []}

    refusal = refusal_of(lambda: list(check_value("access.deny", value, services=services)))

    assert (refusal.code, "510,000 networks" in refusal.message) == ("invalid", True)


def test_ten_thousand_networks_are_imported(three: Site) -> None:
    many = [f"10.{i // 250}.{i % 250}.0/24" for i in range(10_000)]
    done = import_text(three, service_data("web", access={"deny": many}))

    assert done.saved
    assert len(service_of_draft("web").access.deny) == 10_000


def test_without_a_rate_there_is_no_burst(site: Site) -> None:
    site.deploy(service_data("web", access={"new_per_second_per_source": 5, "new_burst": 50}))

    done = set_on(site, "web", field="access.limits", value={"new_per_second_per_source": None})

    assert done.saved
    assert service_of_draft("web").access == Access()


def test_another_kind_of_check_takes_with_it_what_only_the_old_one_used(site: Site) -> None:
    http = {"kind": "http", "path": "/health", "host": "www.example.net", "interval": 30}
    site.deploy(service_data("web", health=http, all_down="refuse", healthy_min=30))

    set_on(site, "web", field="health", value={"kind": "tcp"})
    tcp = service_of_draft("web")
    set_on(site, "web", field="health", value={"kind": "none"})
    none = service_of_draft("web")

    assert tcp.health == Health(kind=HealthKind.TCP, interval=30)
    assert (tcp.all_down, tcp.healthy_min) == (AllDown.REFUSE, 30)
    assert (none.health, none.all_down, none.healthy_min) == (Health(), AllDown.KEEP, 0)


def test_a_mode_takes_with_it_what_only_the_other_mode_has(three: Site) -> None:
    set_on(three, "web", field="source_nat.address", value="198.51.100.1-198.51.100.4")
    pool = service_of_draft("web").source_nat
    set_on(three, "web", field="source_nat.mode", value="none")
    set_on(three, "web", field="persistence.mode", value="source")
    set_on(three, "web", field="persistence.prefix", value=24)
    done = set_on(three, "web", field="persistence.mode", value="none")

    assert (str(pool.address), str(pool.address_end)) == ("198.51.100.1", "198.51.100.4")
    assert done.saved
    web = service_of_draft("web")
    assert (web.source_nat, web.persistence) == (SourceNat(mode=SourceNatMode.NONE), Persistence())


@pytest.mark.parametrize(("field", "value"), [("from_node", False), ("critical", False), ("slow_start", 0)])
def test_a_value_that_is_the_default_already_proposes_nothing(three: Site, field: str, value: object) -> None:
    assert refusal_of(lambda: set_on(three, "web", field=field, value=value)).code == "nothing"


def service_of_draft(name: str) -> Service:
    service, problems = parse_service(Draft.objects.get(service_name=name, change__state="draft").after)
    assert service is not None, problems
    return service


def test_nothing_else_of_the_services_changes_and_the_rest_stay_as_they_are(three: Site) -> None:
    before = {service.name: service for service in live_document(three.cluster).services}

    done = set_on(three, "web", "mail", field="scheduler", value="random")

    after = {service.name: service for service in candidate_document(done.change).services}
    assert done.names == ("mail", "web")
    assert after["dns"] == before["dns"]
    for name in done.names:
        assert (after[name].backends, after[name].port) == (before[name].backends, before[name].port)
    assert set(three.cluster.services.values_list("scheduler", flat=True)) == {"round-robin"}


def test_where_one_service_would_be_invalid_none_is_drafted_and_the_problem_names_it(three: Site) -> None:
    done = set_on(three, *NAMES, field="interface", value="no/such")

    assert not done.saved
    assert {p.path for p in done.problems} == {f"services[{name}].interface" for name in NAMES}
    assert not Change.objects.filter(state="draft").exists()


def test_where_only_one_of_them_would_be_invalid_the_others_are_not_drafted_either(site: Site) -> None:
    site.deploy(
        service_data("web", port=80),
        service_data("web-1", port=80, interface="eth1"),
        service_data("mail", port=25),
    )

    done = set_on(site, "mail", "web", field="interface", value="eth1")

    assert not done.saved
    assert [p.code for p in done.problems] == ["overlap"]
    assert "web" in done.problems[0].path
    assert not Draft.objects.filter(change__state="draft").exists()


def test_services_without_the_backend_stay_as_they_are(three: Site) -> None:
    done = set_on(three, *NAMES, field="backends.state", value="draining", backend="10.0.0.3:80")
    other = set_on(three, *NAMES, field="backends.state", value="disabled", backend="10.0.0.9:53")

    assert done.names == ("web",)
    assert other.names == ("dns",)


@pytest.mark.parametrize("backend", ["", "10.0.0.99:80", "10.0.0.3", "nonsense"])
def test_a_backend_that_no_service_has_is_said(three: Site, backend: str) -> None:
    refusal = refusal_of(lambda: set_on(three, *NAMES, field="backends.weight", value=2, backend=backend))

    assert (refusal.code, "address and port" in refusal.message) == ("nothing", True)
    assert not Change.objects.filter(state="draft").exists()


def test_a_value_that_all_of_them_have_opens_no_change(three: Site) -> None:
    refusal = refusal_of(lambda: set_on(three, *NAMES, field="enabled", value=True))

    assert refusal.code == "nothing"
    assert not Change.objects.filter(state="draft").exists()


@pytest.mark.parametrize(
    ("names", "field", "code"),
    [((), "enabled", "nothing"), (("web", "gone"), "enabled", "conflict"), (("web",), "name", "invalid")],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    three: Site, names: tuple[str, ...], field: str, code: str
) -> None:
    assert refusal_of(lambda: set_on(three, *names, field=field, value=False)).code == code
    assert AuditEvent.objects.filter(action="draft.saved.refused", object_type="cluster").count() == 1


def test_they_start_from_what_is_drafted_already(three: Site) -> None:
    edit(three.author, three, name="web", port=8080)

    done = set_on(three, "web", field="scheduler", value="random")

    after = Draft.objects.get(change=done.change).after
    assert (after["port"], after["scheduler"]) == (8080, "random")


def test_a_service_that_is_deleted_in_the_change_is_not_brought_back(three: Site) -> None:
    import_text(three, service_data("web"), service_data("mail", port=25), replace=True)

    assert refusal_of(lambda: set_on(three, "dns", field="enabled", value=False)).code == "conflict"


def test_only_an_editor_does_so(three: Site, viewer: User) -> None:
    refusal = refusal_of(
        lambda: edit_services(
            actor=viewer, cluster=three.cluster, names=("web",), field="enabled", value=False
        )
    )

    assert refusal.code == "forbidden"


# A document


def test_an_import_drafts_what_is_new_and_what_differs_and_leaves_the_rest(three: Site) -> None:
    done = import_text(three, service_data("web", port=81), service_data("ntp", port=123))

    assert (done.saved, done.names) == (True, ("ntp", "web"))
    assert drafts_by_name(three) == {"ntp": "create", "web": "modify"}


def test_an_import_that_replaces_deletes_what_it_does_not_name(three: Site) -> None:
    import_text(three, service_data("web", port=81), replace=True)

    assert drafts_by_name(three) == {"dns": "delete", "mail": "delete", "web": "modify"}


def test_an_import_can_rename(three: Site) -> None:
    done = import_text(
        three,
        service_data("shop"),
        service_data("mail", port=25),
        service_data("dns", port=53, backends=[backend_data("10.0.0.9")]),
        replace=True,
    )

    assert done.saved
    assert drafts_by_name(three) == {"shop": "create", "web": "delete"}


def test_the_text_of_a_document_goes_in_as_it_came_out(three: Site) -> None:
    text = dump_document(live_document(three.cluster))
    change = edit(three.author, three, name="web", port=8080).change
    go_live(three, change)

    done = import_document(actor=three.author, cluster=three.cluster, text=text, replace=True)

    assert dump_document(candidate_document(done.change)) == text


def test_what_is_live_already_is_said_and_drafts_nothing(three: Site) -> None:
    text = dump_document(live_document(three.cluster))

    refusal = refusal_of(
        lambda: import_document(actor=three.author, cluster=three.cluster, text=text, replace=True)
    )

    assert refusal.code == "nothing"
    assert not Change.objects.filter(state="draft").exists()


def test_importing_what_is_live_over_a_draft_takes_the_draft_back(three: Site) -> None:
    edit(three.author, three, name="web", port=8080)

    import_text(three, service_data("web"))

    assert drafts_by_name(three) == {}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "not-json"),
        ("[]", "not-an-object"),
        ('{"services": [], "extra": 1}', "unknown-key"),
        ('{"services": [{"name": "a"}]}', "missing"),
        (b"\xff", "not-json"),
    ],
)
def test_a_text_that_is_no_document_comes_back_as_problems(three: Site, text: str | bytes, code: str) -> None:
    done = import_document(actor=three.author, cluster=three.cluster, text=text)

    assert code in [problem.code for problem in done.problems]
    assert (done.saved, done.names) == (False, ())
    assert not Change.objects.filter(state="draft").exists()


def test_an_import_that_clashes_with_a_live_service_drafts_nothing_and_names_the_service(
    three: Site,
) -> None:
    done = import_text(three, service_data("other", port=80), service_data("ntp", port=123))

    assert not done.saved
    (problem,) = done.problems
    assert problem.code == "overlap"
    assert problem.path.startswith(("services[other]", "services[web]"))
    assert not Draft.objects.filter(change__state="draft").exists()


def test_many_drafts_at_once_are_reviewed_like_any_other(three: Site) -> None:
    done = set_on(three, *NAMES, field="critical", value=True)

    submitted = submit_change(actor=three.author, change=done.change)

    assert submitted.state == "submitted"
    assert set(submitted.contributors.all()) == {three.author}
