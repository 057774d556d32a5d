"""Each kind of check against real servers on loopback: what is good, what is not, and what is said of it."""

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from balancer.domain.health import Result
from balancer.domain.types import Health, HealthKind, HttpMethod
from balancer.probes.health import tls
from balancer.probes.health.http import check_http
from balancer.probes.health.http_answer import Answer
from balancer.probes.health.tcp import check_tcp
from balancer.probes.health.udp import check_udp
from tests.probes.health.certificates import make_certificate
from tests.probes.health.servers import OK, answer, closed_port, hang, target, tcp_server, udp_server

SHORT = 0.4
"""Seconds, where the timeout is to pass; a document would say whole ones."""
AMPLE = 30.0
"""Where it is not, on however busy a machine."""
TCP = Health(kind=HealthKind.TCP, timeout=AMPLE)


def http(**fields: Any) -> Health:
    return Health(**{"kind": HealthKind.HTTP, "timeout": AMPLE, **fields})


def udp(**fields: Any) -> Health:
    return Health(**{"kind": HealthKind.UDP, "timeout": AMPLE, **fields})


def ask(health: Health, *, port: int, address: str = "127.0.0.1") -> Result:
    checks = {HealthKind.TCP: check_tcp, HealthKind.UDP: check_udp}
    check = checks.get(health.kind, check_http)

    async def run() -> Result:
        return await check(target(health, port=port, address=address))

    started = time.monotonic()
    found = asyncio.run(run())
    assert time.monotonic() - started < health.timeout + 5
    assert found.reason.isprintable()
    return found


def plain(result: Result) -> str:
    """What is said, with no time and no port in it."""
    return re.sub(r"\b\d+ ms", "N ms", re.sub(r"(127\.0\.0\.1|\]):\d+", r"\1:P", result.reason))


def test_tcp_is_good_if_the_connection_is_accepted() -> None:
    with tcp_server(hang) as port:
        found = ask(TCP, port=port)

    assert (found.good, plain(found)) == (True, "connected to 127.0.0.1:P in N ms")


@pytest.mark.parametrize(("address", "shown"), [("127.0.0.1", "127.0.0.1:P"), ("::1", "[::1]:P")])
def test_nobody_at_the_port_is_said_as_refused(address: str, shown: str) -> None:
    with closed_port(address=address) as port:
        tcp, web = ask(TCP, port=port, address=address), ask(http(), port=port, address=address)

    assert (tcp.good, plain(tcp)) == (False, f"tried to connect to {shown}, connection refused after N ms")
    assert (web.good, plain(web)) == (False, f"tried GET http://{shown}/, connection refused after N ms")


def test_a_backend_that_accepts_and_never_answers_is_found_by_http_and_not_by_tcp() -> None:
    with tcp_server(hang) as port:
        assert ask(TCP, port=port).good is True
        found = ask(http(timeout=SHORT), port=port)

    assert (found.good, plain(found)) == (
        False,
        "tried GET http://127.0.0.1:P/, connected, but no answer within 0.4 s",
    )


@pytest.mark.parametrize(
    ("status", "expected", "good"),
    [(200, "200-399", True), (301, "200-299,301", True), (404, "200-399", False), (503, "200,503", True)],
)
def test_http_judges_by_the_status(status: int, expected: str, good: bool) -> None:
    with tcp_server(answer(f"HTTP/1.1 {status} Whatever\r\n\r\n".encode())) as port:
        found = ask(http(expect_status=expected, path="/health"), port=port)

    assert found.good is good
    words = f"tried GET http://127.0.0.1:P/health, status {status} after N ms"
    assert plain(found) == (words if good else f"{words}, expected {expected}")


@pytest.mark.parametrize(
    "sent",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", b"all is fine\n"),
        (b"HTTP/1.0 200 OK\r\n\r\nall is ", b"fine"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nall i\r\n6;x=y\r\ns fine\r\n0\r\n\r\n",),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nall is fine",),
        (b"HT", b"TP/1.1 200 OK\r", b"\nA: b\r\n\r", b"\nall is fine"),
    ],
)
def test_the_expected_text_is_found_however_the_answer_comes(sent: tuple[bytes, ...]) -> None:
    with tcp_server(answer(*sent, pause=0.02)) as port:
        assert ask(http(expect_body="all is fine"), port=port).good is True


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnone of it fine",
        b"HTTP/1.1 200 OK\r\nX: fine\r\n\r\nnothing",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\nfine",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nfi\r\n0\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70000 + b"fine",
        b"HTTP/1.1 200 OK\r\nfine: " + b"y" * 70000,
    ],
)
def test_a_body_without_the_expected_text_is_a_failure(sent: bytes) -> None:
    with tcp_server(answer(sent)) as port:
        found = ask(http(expect_body="fine"), port=port)

    assert found.good is False
    assert plain(found).endswith("status 200 after N ms, but the body does not hold “fine”")


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2_600),
        (b"HTTP/1.1 100 Continue\r\nX: ", b"x" * 65536),
    ],
    ids=["extension of a chunk", "tiny chunks", "interim answers", "head of an interim answer"],
)
def test_an_answer_without_end_is_read_no_further_than_makes_sense(head: bytes, more: bytes) -> None:
    with tcp_server(answer(head, *[more] * 500)) as port:
        started = time.monotonic()
        found = ask(http(expect_body="fine"), port=port)
    assert found.good is False
    assert time.monotonic() - started < AMPLE / 2, "long before the timeout"


def test_a_length_of_thousands_of_digits_is_no_length() -> None:
    with tcp_server(answer(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nfine")) as port:
        assert ask(http(expect_body="fine"), port=port).good is True
    with tcp_server(answer(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nnone")) as port:
        assert ask(http(expect_body="fine"), port=port).good is False


def test_many_tiny_pieces_cost_no_more_than_a_few_large_ones() -> None:
    """The loop that reads them checks other backends as well."""
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000
    pieces = [whole[at : at + 100] for at in range(0, len(whole), 100)]
    found, began = Answer(), time.process_time()

    for piece in pieces:
        found.feed(piece)

    assert time.process_time() - began < 1, "looking at all of it with each piece takes 30 s"
    assert (found.status, len(found.body)) == (200, 40_000)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nall is", "status 200, but no “fine” came within 0.3 s"),
        (b"HTTP/1.", "connected, 'HTTP/1.' came, but no answer within 0.3 s"),
    ],
)
def test_an_answer_that_stops_in_the_middle_is_told_from_none(sent: bytes, words: str) -> None:
    with tcp_server(answer(sent, *[b""] * 20, pause=0.05)) as port:
        assert ask(http(expect_body="fine", timeout=0.3), port=port).reason.endswith(words)


def test_an_answer_that_has_no_body_is_not_waited_for() -> None:
    with tcp_server(answer(b"HTTP/1.1 204 No Content\r\n\r\n", *[b""] * 20, pause=0.05)) as port:
        found = ask(http(expect_body="fine"), port=port)

    assert plain(found).endswith("status 204 after N ms, but the body does not hold “fine”")


def test_an_answer_that_drips_longer_than_the_timeout_is_a_failure() -> None:
    for head in (b"x", OK[:20]):
        with tcp_server(answer(head, *[b"x"] * 400, pause=0.05)) as port:
            assert ask(http(expect_body="fine", timeout=SHORT), port=port).good is False


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer after N ms is not HTTP/1"),
        (b"\x00\xff\x1b[31m", "the answer after N ms is not HTTP/1"),
        (b"HTTP/2 200\r\n\r\n", "the answer after N ms is not HTTP/1"),
        (b"HTTP/1.1 99 No\r\n\r\n", "the answer after N ms is not HTTP/1"),
        (b"", "the end of the connection after N ms instead of an answer"),
        (b"HTTP/1.1 200", "'HTTP/1.1 200' and the end after N ms instead of an answer"),
    ],
)
def test_what_is_no_answer_of_http_is_a_failure(sent: bytes, words: str) -> None:
    with tcp_server(answer(sent)) as port:
        found = ask(http(), port=port)

    assert (found.good, plain(found)) == (False, f"tried GET http://127.0.0.1:P/, {words}")


def test_the_question_says_method_path_and_host() -> None:
    heard: list[bytes] = []

    def listen(opened: socket.socket) -> None:
        heard.append(opened.recv(4096))
        opened.sendall(OK)

    health = http(method=HttpMethod.OPTIONS, path="/a?b=c", host="www.example.net:8080")
    with tcp_server(listen, address="::1") as port:
        assert ask(health, port=port, address="::1").good is True
        assert ask(http(), port=port, address="::1").good is True

    assert heard[0].startswith(b"OPTIONS /a?b=c HTTP/1.1\r\nHost: www.example.net:8080\r\n")
    assert b"\r\nConnection: close\r\n\r\n" in heard[0]
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in heard[1]


def test_https_warns_of_a_certificate_that_soon_expires(tmp_path: Path) -> None:
    health = http(kind=HealthKind.HTTPS, certificate_warning_days=14)
    with tcp_server(answer(OK), certificate=make_certificate(tmp_path, days=9)) as port:
        near = ask(health, port=port)
        off = ask(http(kind=HealthKind.HTTPS, certificate_warning_days=0), port=port)
    with tcp_server(answer(OK), certificate=make_certificate(tmp_path, days=90)) as port:
        far = ask(health, port=port)

    assert (near.good, off.good, far.good) == (True, True, True)
    assert re.fullmatch(r"the certificate expires in 8 days, on \d{4}-\d\d-\d\d", near.warning)
    assert (off.warning, far.warning) == ("", "")
    assert plain(far) == "tried GET https://127.0.0.1:P/, status 200 after N ms"


def test_https_verifies_a_certificate_only_where_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, days=90, name="www.example.net")
    verified = http(kind=HealthKind.HTTPS, host="www.example.net:8443", verify_certificate=True)
    with tcp_server(answer(OK), certificate=certificate) as port:
        assert ask(http(kind=HealthKind.HTTPS), port=port).good is True
        stranger = ask(verified, port=port)
        tls.make_context.cache_clear()
        monkeypatch.setenv("SSL_CERT_FILE", f"{certificate}.crt")
        trusted = ask(verified, port=port)
        other = ask(http(kind=HealthKind.HTTPS, host="other.example.net", verify_certificate=True), port=port)
    tls.make_context.cache_clear()

    assert stranger.good is False
    assert "TLS failed after" in stranger.reason
    assert "self-signed certificate" in stranger.reason
    assert trusted.good is True
    assert other.good is False
    assert "Hostname mismatch" in other.reason


def test_https_to_a_port_without_tls_is_a_failure() -> None:
    with tcp_server(answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert "TLS failed" in ask(http(kind=HealthKind.HTTPS), port=port).reason
    with tcp_server(hang) as port:
        found = ask(http(kind=HealthKind.HTTPS, timeout=SHORT), port=port)

    assert plain(found) == "tried GET https://127.0.0.1:P/, connected, but no answer within 0.4 s"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_udp_sends_bytes_and_expects_bytes(address: str) -> None:
    with udp_server(b"\x00PONG\r\n", address=address) as (port, heard):
        good = ask(udp(send=r"PING\x00\r\n", expect=r"PONG\r"), port=port, address=address)
        bad = ask(udp(send="a", expect="PING", timeout=1), port=port, address=address)

    assert heard == [b"PING\x00\r\n", b"a"]
    assert good.good is True
    assert bad.good is False
    assert bad.reason.endswith(r"the answer '\x00PONG\r\n' does not hold what is expected")


def test_udp_without_an_expected_answer_fails_only_where_it_is_refused() -> None:
    with udp_server(None) as (port, _):
        silent = ask(udp(timeout=SHORT), port=port)
        waited = ask(udp(expect="x", timeout=SHORT), port=port)
    with closed_port(socket.SOCK_DGRAM) as port:
        refused = ask(udp(), port=port)

    assert (silent.good, plain(silent)) == (
        True,
        "sent a UDP packet to 127.0.0.1:P, not refused within 0.4 s",
    )
    assert (waited.good, plain(waited)) == (
        False,
        "sent a UDP packet to 127.0.0.1:P, no answer within 0.4 s",
    )
    assert (refused.good, plain(refused)) == (
        False,
        "sent a UDP packet to 127.0.0.1:P, connection refused after N ms",
    )


def test_a_fault_of_the_node_itself_says_nothing_about_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: Any, **__: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    with tcp_server(hang) as port:
        one = target(TCP, port=port)

        async def run() -> Result:
            monkeypatch.setattr(socket, "socket", no_more)
            try:
                return await check_tcp(one)
            finally:
                monkeypatch.undo()

        found = asyncio.run(run())

    assert found.good is None
    assert found.warning == found.reason
    assert found.reason.endswith("but this node could not: too many open files")
