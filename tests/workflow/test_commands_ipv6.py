"""`manage.py render --family ipv6` and `manage.py trace` to an IPv6 address."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

from django.core.management import call_command

from tests.documents import backend_data, document_data, service_data

WEB6 = service_data("web6", port=8000, backends=[backend_data("2001:db8::3"), backend_data("2001:db8::4")])


def run(command: str, *args: object, **options: Any) -> str:
    out = StringIO()
    call_command(command, *map(str, args), stdout=out, **options)
    return out.getvalue()


def write(folder: Path) -> Path:
    path = folder / "document.json"
    path.write_text(json.dumps(document_data(service_data(), WEB6)))
    return path


def test_each_family_is_rendered_by_itself(tmp_path: Path) -> None:
    file = write(tmp_path)
    ipv4, ipv6 = run("render", "--document", file), run("render", "--document", file, "--family", "ipv6")
    assert "LB-S-web " in ipv4
    assert "LB-S-web6" not in ipv4
    assert "--to-destination [2001:db8::3]:8000" in ipv6
    assert "LB-S-web " not in ipv6
    assert "icmp6-port-unreachable" in ipv6


def test_a_trace_follows_the_family_of_the_destination(tmp_path: Path) -> None:
    way = ["--interface", "eth0", "--protocol", "tcp", "--port", 8000, "--json"]
    addresses = ["--source", "2001:db8:1::9", "--destination", "2001:db8:1::1"]
    data = json.loads(run("trace", "--document", write(tmp_path), *way, *addresses))
    assert data["shares"] == {"[2001:db8::3]:8000": "1/2", "[2001:db8::4]:8000": "1/2"}
