"""What differs."""

from balancer.domain.diff import FieldChange, diff_lines, diff_services
from tests.documents import backend_data, document, service_data


def test_a_changed_weight_is_one_field() -> None:
    before = document(service_data(backends=[backend_data(), backend_data("10.0.0.4")])).services[0]
    after = document(service_data(backends=[backend_data("10.0.0.4"), backend_data(weight=3)])).services[0]
    assert diff_services(before, after) == (FieldChange("backends[10.0.0.3:80].weight", "1", "3"),)


def test_a_new_service_shows_all_of_its_fields_and_no_former_value() -> None:
    changes = diff_services(None, document(service_data()).services[0])
    assert FieldChange("port", None, "80") in changes
    assert FieldChange("source_nat.mode", None, "masquerade") in changes
    assert all(change.before is None for change in changes)


def test_a_removed_backend_has_no_later_value() -> None:
    before = document(service_data()).services[0]
    after = document(service_data(backends=[])).services[0]
    assert FieldChange("backends[10.0.0.3:80].weight", "1", None) in diff_services(before, after)


def test_equal_services_and_texts_differ_in_nothing() -> None:
    service = document(service_data()).services[0]
    assert diff_services(service, service) == ()
    assert diff_lines("a\nb\n", "a\nb\n") == ()


def test_lines_far_from_a_change_are_left_out_and_counted() -> None:
    before = "\n".join(f"line {i}" for i in range(20))
    lines = diff_lines(before, before.replace("line 10", "line X"))
    assert [(line.kind, line.text) for line in lines if line.kind != "same"] == [
        ("gap", "7 unchanged lines"),
        ("removed", "line 10"),
        ("added", "line X"),
        ("gap", "6 unchanged lines"),
    ]


def test_a_service_of_older_keys_alone_gives_the_fields_that_it_always_gave() -> None:
    """Evidence files hold them, and are verified by making them again."""
    service = document(service_data(backends=[backend_data()])).services[0]

    fields = {change.path: change.after for change in diff_services(None, service)}

    nat = {"source_nat.mode": "masquerade", "source_nat.address": "(none)"}
    health = {"kind": "none", "interval": "5", "timeout": "2", "rise": "2", "fall": "3", "port": "(none)"}
    access = ("allow", "deny", "new_per_second_per_source", "connections_per_source")
    assert fields == {
        **{"name": "web", "interface": "eth0", "protocol": "tcp", "port": "80", "description": "(none)"},
        **{"enabled": "yes", "critical": "no", "address": "(none)", "port_end": "(none)"},
        **{"scheduler": "round-robin", "persistence.mode": "none", "persistence.timeout": "300", **nat},
        **{f"access.{key}": "(none)" for key in access},
        "access.drop_invalid": "yes",
        **{f"health.{key}": value for key, value in health.items()},
        **{"health.path": "/", "health.expect_status": "200-399", "all_down": "keep"},
        "backends[10.0.0.3:80].weight": "1",
        "backends[10.0.0.3:80].state": "enabled",
        "backends[10.0.0.3:80].priority": "0",
    }
    assert [c.before for c in diff_services(service, None)] == list(fields.values())


def test_a_later_key_is_shown_where_it_says_something() -> None:
    plain = document(service_data()).services[0]
    ports = document(service_data(additional_ports=["443", "8000-8099"], from_node=True)).services[0]

    assert diff_services(plain, ports) == (
        FieldChange("additional_ports", "(none)", "443, 8000-8099"),
        FieldChange("from_node", "no", "yes"),
    )
    assert FieldChange("additional_ports", None, "443, 8000-8099") in diff_services(None, ports)
