"""TLS for checks: contexts, and when a certificate ends."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

_CONSTRUCTED_CONTEXT_0, _UTC_TIME = 0xA0, 0x17
"""Tags of DER (X.690)."""


@cache
def make_context(*, verify: bool) -> ssl.SSLContext:
    """With `verify`, against what the node's system trusts; without, any certificate will do."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def describe_expiry(certificate: bytes, *, days: int, now: datetime) -> str:
    """A warning where the certificate (DER) ends within so many days; empty where it does not, or cannot be
    read: a check is no audit."""
    try:
        end = read_not_after(certificate)
    except (ValueError, IndexError, StopIteration):
        return ""
    left = end - now
    if not days or left.days >= days:
        return ""
    if end <= now:
        return f"the certificate expired on {end:%Y-%m-%d}"
    when = "today or tomorrow" if left.days < 1 else f"in {left.days} day{'' if left.days == 1 else 's'}"
    return f"the certificate expires {when}, on {end:%Y-%m-%d}"


def read_not_after(certificate: bytes) -> datetime:
    """RFC 5280, 4.1: Certificate -> TBSCertificate -> validity -> notAfter.

    The standard library tells it only of a certificate that was verified, and a package for that alone would
    be the largest that we have. Raises ValueError, IndexError or StopIteration where that is no certificate.
    """
    _, whole = next(_elements(certificate))
    _, signed = next(_elements(whole))
    fields = _elements(signed)
    tag, _ = next(fields)
    if tag == _CONSTRUCTED_CONTEXT_0:
        next(fields)  # the version was there, this is the serial number
    next(fields)  # signature algorithm
    next(fields)  # issuer
    _, validity = next(fields)
    times = _elements(validity)
    next(times)
    tag, text = next(times)
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each element, one after the other."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        yield tag, data[at : at + length]
        at += length
