"""What a check says: what was tried, what came of it, how long it took."""

import errno
import os

from balancer.domain.health import Result

_ERRORS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EPIPE: "connection closed",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "timed out",
}
OWN_FAULTS = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN),
        *(errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EPERM, errno.EACCES, errno.EINVAL, errno.EAFNOSUPPORT),
    }
)
"""Errors of the node that asks, its own packet filter (EPERM) included: they say nothing about a backend."""
_EXCERPT = 40


def describe_time(seconds: float) -> str:
    """`1 ms`; what is below that counts as one."""
    return f"{max(1, round(seconds * 1000))} ms"


def describe_error(error: OSError) -> str:
    code = error.errno or 0
    return _ERRORS.get(code) or (os.strerror(code).lower() if code else str(error) or "failed")


def describe_bytes(data: bytes) -> str:
    """The beginning of what a stranger sent, in printable ASCII."""
    text = ascii(data[:_EXCERPT].decode("latin-1"))
    return f"{text}…" if len(data) > _EXCERPT else text


def failed(tried: str, error: OSError, *, seconds: float) -> Result:
    """An error of the kernel about one check."""
    if error.errno in OWN_FAULTS:
        reason = f"{tried}, but this node could not: {describe_error(error)}"
        return Result(good=None, reason=reason, warning=reason)
    return Result(good=False, reason=f"{tried}, {describe_error(error)} after {describe_time(seconds)}")


def silent(tried: str, *, timeout: float, before: str = "", what: str = "no answer") -> Result:
    """Nothing came within the timeout; `before` is what had worked by then."""
    after = f"{before} but " if before else ""
    return Result(good=False, reason=f"{tried}, {after}{what} within {timeout:g} s")
