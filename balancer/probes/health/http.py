"""Whether a backend's web server answers as it should, over HTTP/1.1 or the same over TLS.

Written over the socket itself: all that a check needs of a client library is the status line, and one check
through a library costs two to ten times as much (measured in docs/design/probes.md).
"""

import ssl
from datetime import UTC, datetime

from balancer.domain.health import Result
from balancer.domain.health_scalars import read_status_ranges
from balancer.domain.types import HealthKind
from balancer.probes.health.base import Target
from balancer.probes.health.http_answer import MAX_ANSWER, Answer, NotHttp
from balancer.probes.health.tls import describe_expiry, make_context
from balancer.probes.health.wire import Silence, Wire
from balancer.probes.health.words import describe_bytes, describe_time, failed, silent

_NOTHING = "the end of the connection"


async def check_http(target: Target) -> Result:
    health = target.health
    address = f"{health.kind}://{target.endpoint}{health.path}"
    tried = f"tried {health.method} {address}{f' (host {health.host})' if health.host else ''}"
    stage, warning = "", ""
    with Wire(target) as wire:
        try:
            await wire.connect()
            stage = "connected,"
            if health.kind is HealthKind.HTTPS:
                warning = await _start_tls(target, wire)
            await wire.send(_request(target))
            found = await _judge(target, wire, tried)
        except Silence:
            return silent(tried, timeout=health.timeout, before=stage)
        except NotHttp:
            return Result(good=False, reason=f"{tried}, the answer after {_after(wire)} is not HTTP/1")
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or (error.reason or "failed").replace("_", " ").lower()
            return Result(good=False, reason=f"{tried}, TLS failed after {_after(wire)}: {why}")
        except OSError as error:
            return failed(tried, error, seconds=wire.seconds)
    return Result(good=found.good, reason=found.reason, warning=warning)


async def _start_tls(target: Target, wire: Wire) -> str:
    health = target.health
    name = _without_port(health.host) or target.address
    certificate = await wire.start_tls(make_context(verify=health.verify_certificate), name=name)
    return describe_expiry(certificate, days=health.certificate_warning_days, now=datetime.now(UTC))


async def _judge(target: Target, wire: Wire, tried: str) -> Result:
    health, answer, begun, read = target.health, Answer(), b"", 0
    wanted = health.expect_body.encode()
    while True:
        try:
            came = await wire.receive()
        except Silence:
            if answer.status is None:
                return silent(tried, timeout=health.timeout, before=_so_far(begun))
            before = f"status {answer.status},"
            return silent(
                tried, timeout=health.timeout, before=before, what=f"no “{health.expect_body}” came"
            )
        begun, read = begun or came, read + len(came)
        ended = not came or read >= MAX_ANSWER
        answer.feed(came)
        if answer.status is None:
            if not ended:
                continue
            what = f"{describe_bytes(begun)} and {'more' if came else 'the end'}" if begun else _NOTHING
            return Result(good=False, reason=f"{tried}, {what} after {_after(wire)} instead of an answer")
        if not is_expected(answer.status, health.expect_status):
            what = f"status {answer.status} after {_after(wire)}, expected {health.expect_status}"
            return Result(good=False, reason=f"{tried}, {what}")
        if wanted in answer.body:
            return Result(good=True, reason=f"{tried}, status {answer.status} after {_after(wire)}")
        if answer.complete or ended:
            what = f"status {answer.status} after {_after(wire)}, but the body does not hold"
            return Result(good=False, reason=f"{tried}, {what} “{health.expect_body}”")


def _so_far(begun: bytes) -> str:
    return f"connected, {describe_bytes(begun)} came," if begun else "connected,"


def is_expected(status: int, ranges: str) -> bool:
    return any(low <= status <= high for low, high in read_status_ranges(ranges))


def _request(target: Target) -> bytes:
    health = target.health
    return (
        f"{health.method} {health.path} HTTP/1.1\r\n"
        f"Host: {health.host or target.endpoint}\r\n"
        "User-Agent: lbadmin-health\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


def _without_port(host: str) -> str:
    """`[2001:db8::1]:80` and `www.example.net:80` without what only HTTP needs."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _after(wire: Wire) -> str:
    return describe_time(wire.seconds)
