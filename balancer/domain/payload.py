"""Bytes as people write them: printable ASCII, and escapes for all others."""

import re

MAX_PAYLOAD = 512
"""Characters as written."""
_ESCAPES = {"\\\\": b"\\", "\\r": b"\r", "\\n": b"\n", "\\t": b"\t"}
_PIECE = re.compile(r"\\x[0-9A-Fa-f]{2}|\\[rnt\\]|[ -\[\]-~]")
_PAYLOAD = re.compile(rf"(?:{_PIECE.pattern})*")


def is_payload(text: str) -> bool:
    r"""Printable ASCII with `\xNN`, `\r`, `\n`, `\t`, and `\\` for a backslash."""
    return len(text) <= MAX_PAYLOAD and _PAYLOAD.fullmatch(text) is not None


def payload_bytes(text: str) -> bytes:
    """What a text stands for; it must be a payload."""
    return b"".join(_bytes_of(piece) for piece in _PIECE.findall(text))


def _bytes_of(piece: str) -> bytes:
    if piece.startswith("\\x"):
        return bytes.fromhex(piece[2:])
    return _ESCAPES.get(piece) or piece.encode("ascii")
