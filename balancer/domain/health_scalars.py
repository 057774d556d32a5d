"""Readers of single values (`scalars`) of the health checks."""

import re
from ipaddress import ip_address

from balancer.domain.payload import MAX_PAYLOAD, is_payload
from balancer.domain.scalars import Invalid, describe

_URL_PATH = re.compile(r"/[!-~]{0,1023}")
_STATUS_RANGES = re.compile(r"[1-5]\d\d(-[1-5]\d\d)?(,[1-5]\d\d(-[1-5]\d\d)?)*")
# RFC 9110, 7.2: a host as in a URI, and perhaps a port. Nothing here can end a header's line.
_HOST = re.compile(
    r"(?:([A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*)|\[([0-9A-Fa-f:.]+)\])(?::([1-9]\d{0,4}))?"
)
_MAX_BODY_TEXT = 200
_MAX_STATUS_RANGES = 200


def url_path(value: object) -> str:
    if not isinstance(value, str) or not _URL_PATH.fullmatch(value):
        raise Invalid("path", f"must begin with / and hold printable ASCII only, not {describe(value)}.")
    return value


def status_ranges(value: object) -> str:
    if not isinstance(value, str) or not _STATUS_RANGES.fullmatch(value):
        raise Invalid("status", f"must be HTTP statuses such as 200-399 or 200,204, not {describe(value)}.")
    if len(value) > _MAX_STATUS_RANGES:
        raise Invalid("status", f"must be a text of at most {_MAX_STATUS_RANGES} characters.")
    for low, high in read_status_ranges(value):
        if high < low:
            raise Invalid("status", f"must name the lower status of a range first, not {low}-{high}.")
    return value


def read_status_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """`200-299,301` as ((200, 299), (301, 301)); the text must be well-formed."""
    parts = (part.partition("-") for part in text.split(","))
    return tuple((int(low), int(high or low)) for low, _, high in parts)


def host_header(value: object) -> str:
    if not isinstance(value, str) or (value and not _is_host(value)):
        raise Invalid(
            "host",
            "must be a name or an address, with a port where it is needed, such as www.example.net or"
            f" [2001:db8::1]:8080, not {describe(value)}.",
        )
    return value


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    if found is None or int(found[3] or 1) > 65535 or len(found[1] or "") > 253:
        return False
    try:
        return found[2] is None or ip_address(found[2]).version == 6
    except ValueError:
        return False


def body_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_BODY_TEXT:
        raise Invalid(
            "text", f"must be a text of at most {_MAX_BODY_TEXT} characters, not {describe(value)}."
        )
    if not value.isprintable():
        raise Invalid("text", f"must be one line without control characters, not {describe(value)}.")
    return value


def payload(value: object) -> str:
    r"""Bytes as people write them, `\x00` for those that cannot be seen."""
    if not isinstance(value, str) or not is_payload(value):
        raise Invalid(
            "payload",
            f"must be at most {MAX_PAYLOAD} characters of printable ASCII; write other bytes as \\x00 to"
            f" \\xff, \\r, \\n or \\t, and a backslash as \\\\, not {describe(value)}.",
        )
    return value
