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
