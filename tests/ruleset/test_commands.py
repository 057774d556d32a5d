"""`manage.py render` and `manage.py trace`."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.documents import document_data, service_data

ARTICLE = document_data(service_data())


@pytest.fixture
def article(tmp_path: Path) -> Path:
    path = tmp_path / "article.json"
    path.write_text(json.dumps(ARTICLE))
    return path


def run(command: str, *args: object, **options: Any) -> str:
    out = StringIO()
    call_command(command, *map(str, args), stdout=out, **options)
    return out.getvalue()


TO_WEB = ["--interface", "eth0", "--protocol", "tcp", "--source", "198.51.100.9", "--destination", "10.0.0.1"]


def test_render_prints_both_tables(article: Path) -> None:
    text = run("render", "--document", article)
    assert text.startswith("*filter\n")
    assert "*nat\n" in text
    assert text.endswith("COMMIT\n")


def test_trace_prints_exact_shares_as_json(article: Path) -> None:
    text = run("trace", "--document", article, *TO_WEB, "--port", 80, "--json")
    assert json.loads(text) == {
        "matched": True,
        "service": "web",
        "masqueraded": True,
        "shares": {f"10.0.0.{last}:80": "1/4" for last in range(3, 7)},
        "unmatched": "0",
    }


def test_trace_says_when_nothing_matches(article: Path) -> None:
    text = run("trace", "--document", article, *TO_WEB, "--port", 81, "--json")
    assert json.loads(text) == {
        "matched": False,
        "service": None,
        "masqueraded": False,
        "shares": {},
        "unmatched": "1",
    }


def test_trace_is_readable(article: Path) -> None:
    text = run("trace", "--document", article, *TO_WEB, "--port", 80)
    assert "Service web. Backends see the balancer's address." in text
    assert "10.0.0.6:80" in text
    assert "25.00 %" in text
    assert "nat LB-S-web" in text


def test_trace_says_that_a_service_without_backends_refuses(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(document_data(service_data(backends=[]))))
    text = run("trace", "--document", path, *TO_WEB, "--port", 80, stderr=StringIO())
    assert "refused at once" in text


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_bad_port_is_refused(article: Path, port: str) -> None:
    with pytest.raises(CommandError, match="port"):
        run("trace", "--document", article, *TO_WEB, f"--port={port}")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"Cannot read the document .*: No such file or directory"):
        run("render", "--document", tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("text", "path"), [("[]", "JSON object"), ("{", "JSON"), ('{"services": [{}]}', "services\\[0\\].name")]
)
def test_a_bad_document_names_the_field(tmp_path: Path, text: str, path: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(CommandError, match=path):
        run("render", "--document", file)
