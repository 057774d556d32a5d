"""What a check of an evidence file comes to, and words that the checks share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from balancer.domain.evidence import Data

UNREADABLE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""What data of another shape than ours makes the checks below raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check in one sentence."""

    check: str
    passed: bool
    text: str


class Wrong(Exception):
    """What a check found; a sentence."""


def run_check(name: str, check: Callable[[Any], str], data: Any) -> Finding:
    """`check` returns a sentence, or raises Wrong with another one; data of any shape is judged."""
    try:
        return Finding(check=name, passed=True, text=check(data))
    except Wrong as error:
        return Finding(check=name, passed=False, text=str(error))
    except UNREADABLE as error:
        text = f"What the file says about “{name}” cannot be read: {why(error)}."
        return Finding(check=name, passed=False, text=text)


def why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise Wrong(sentence)


def count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def is_about(event: Data, data: Data) -> bool:
    """Whether an audit event is about the change or the deployment of the file."""
    keys = {"change": data["change"]["id"], "deployment": data["deployment"]["id"]}
    kind = event["object_type"]
    return kind in keys and bool(event["object_id"] == str(keys[kind]))
