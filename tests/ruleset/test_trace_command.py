"""`manage.py trace` of the ways of balancing: one backend where the client decides, a pool by its name."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.documents import backend_data, document_data, service_data

TO_WEB = ["--protocol", "tcp", "--destination", "203.0.113.1", "--port", "80"]
INSIDE = ["--interface", "eth0"]


@pytest.fixture
def trace(tmp_path: Path) -> Any:
    def run(service: dict[str, Any], *args: str) -> str:
        path = tmp_path / "document.json"
        path.write_text(json.dumps(document_data(service)))
        out = StringIO()
        call_command("trace", "--document", str(path), *TO_WEB, *args, stdout=out)
        return out.getvalue()

    return run


def test_a_given_client_of_source_hash_gets_one_backend_and_always_the_same(trace: Any) -> None:
    web = service_data(scheduler="source-hash")
    texts = [trace(web, *INSIDE, "--source", f"198.51.100.{n}", "--json") for n in (*range(1, 9), 1)]
    shares = [json.loads(text)["shares"] for text in texts]
    assert all(list(one.values()) == ["1"] for one in shares)
    assert len({str(one) for one in shares}) > 1
    assert shares[0] == shares[-1]


def test_without_a_client_source_hash_gives_the_parts_of_all_clients(trace: Any) -> None:
    found = json.loads(trace(service_data(scheduler="source-hash"), *INSIDE, "--json"))
    assert found["shares"] == {f"10.0.0.{last}:80": "1/4" for last in range(3, 7)}


def test_only_the_first_of_a_failover_gets_connections(trace: Any) -> None:
    backends = [backend_data(priority=1), backend_data("10.0.0.4")]
    found = json.loads(trace(service_data(scheduler="failover", backends=backends), *INSIDE, "--json"))
    assert found["shares"] == {"10.0.0.4:80": "1"}


@pytest.mark.parametrize(
    ("nat", "words"),
    [
        ({"mode": "none"}, "Backends see the client's own address."),
        ({"mode": "snat", "address": "198.51.100.1"}, "Backends see the address 198.51.100.1."),
        (
            {"mode": "snat", "address": "198.51.100.1", "address_end": "198.51.100.4"},
            "Backends see an address of the pool 198.51.100.1-198.51.100.4.",
        ),
    ],
)
def test_the_source_that_backends_see_is_named(trace: Any, nat: dict[str, Any], words: str) -> None:
    web = service_data(source_nat=nat)
    assert words in trace(web, *INSIDE)
    end = nat.get("address_end")
    pool = f"{nat['address']}{f'-{end}' if end else ''}" if "address" in nat else None
    assert json.loads(trace(web, *INSIDE, "--json")).get("rewritten_to") == pool


def test_a_connection_of_the_node_itself_is_balanced_where_the_service_takes_it(trace: Any) -> None:
    assert "Service web." in trace(service_data(from_node=True), "--from-node")
    assert "nat LB-OUTPUT" in trace(service_data(from_node=True), "--from-node")
    assert "No service takes this connection" in trace(service_data(), "--from-node")


@pytest.mark.parametrize("where", [[], [*INSIDE, "--from-node"]])
def test_a_connection_comes_in_somewhere_or_from_the_node(trace: Any, where: list[str]) -> None:
    with pytest.raises(CommandError, match="--interface"):
        trace(service_data(), *where)


@pytest.mark.parametrize(
    ("source", "words", "reason"),
    [
        ("203.0.113.77", "drops this connection: the client is on its deny list", "denied"),
        ("198.51.100.9", "drops this connection: the client is on its deny list", "denied"),
        ("192.0.2.1", "drops this connection: the client is not on its allow list", "not-allowed"),
        ("198.51.100.8", "Backends see", None),
        (None, "Backends see", None),
    ],
)
def test_a_client_who_is_refused_is_told_why(
    trace: Any, source: str | None, words: str, reason: str | None
) -> None:
    access = {"allow": ["198.51.100.0/24"], "deny": ["203.0.113.0/24", "198.51.100.9"], "log_refused": True}
    web, asked = service_data(access=access), [*INSIDE, *(["--source", source] if source else [])]
    assert words in trace(web, *asked)
    assert json.loads(trace(web, *asked, "--json")).get("denied") == reason
