"""What a probe says: values that the workflow, the console and the evidence file can keep."""

from dataclasses import asdict, dataclass
from typing import Any


class ProbeError(Exception):
    """The probe could not be made. The message is a sentence that says why, and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceProbe:
    """Whether one service answers a connection that comes in like a client's."""

    service: str
    """Empty where the text is about several services."""
    passed: bool | None
    """None: it could not be asked, or nothing can be asked of it; the text says why."""
    text: str
    milliseconds: float | None = None
    """From the first packet to the answer; None where there was none."""
    backends_up: int = 0
    """Enabled backends that accepted a connection straight from the node."""

    @property
    def stands(self) -> bool:
        """What could not be asked is no reason to go back."""
        return self.passed is not False

    def to_data(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return asdict(self)
