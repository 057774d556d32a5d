"""Facts of an audit event, brought into a form that every database gives back exactly as it was taken in.

What is hashed must be what is read later. PostgreSQL's jsonb keeps numbers as decimals (1e16 comes back as an
integer), and refuses NUL and lone surrogates; SQLite keeps any text. So everything that one of them would
alter or refuse is spelled out as text here, before it is hashed. Nothing is ever dropped for its form.
"""

import json
import math
from collections.abc import Mapping, Set
from typing import Any

INTEGER_MAX = 2**63
"""Below this, every JSON reader agrees on an integer."""


def plain_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as text, finite numbers, booleans, None, lists and dicts; anything else as its `str()`."""
    return {_key(key): _plain(value) for key, value in facts.items()}


def plain_text(text: str) -> str:
    """Text with NUL and lone surrogates spelled out, such as `\\x00`; everything else as it is."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def canonical_json(value: Any) -> str:
    """One spelling for each value: sorted keys, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < INTEGER_MAX else f"{value:#x}"
    if isinstance(value, float):
        return _plain_number(value)
    if isinstance(value, Mapping):
        return plain_facts(value)
    if isinstance(value, Set):
        return sorted((_plain(item) for item in value), key=canonical_json)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return ascii(bytes(value))
    return plain_text(str(value))


def _plain_number(value: float) -> Any:
    if not math.isfinite(value):
        return str(value)
    # jsonb has no negative zero and gives a whole number back as an integer where it was written with an e.
    return _plain(int(value)) if value.is_integer() else float(value)


def _key(key: Any) -> str:
    return plain_text(str(key))
