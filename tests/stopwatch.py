"""How long something took, and how much of that is the fault of a machine that has other things to do."""

import re
import time
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")


class Stopwatch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._began, self._stalled = time.monotonic(), _stalled()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def stalled(self) -> float:
        """Those in which something on this machine that could have run had to wait for a processor."""
        return _stalled() - self._stalled

    @property
    def own(self) -> float:
        """Those that it took although there was a processor for it: they are what a promise is held against.

        On a machine where nothing else runs that is nearly all of them.
        """
        return self.seconds - self.stalled


def _stalled() -> float:
    """Since the machine was started; 0 where its kernel does not count that (CONFIG_PSI)."""
    try:
        text = _PRESSURE.read_text()
    except OSError:
        return 0.0
    found = re.search(r"^some .*total=(\d+)$", text, re.MULTILINE)
    return int(found[1]) / 1e6 if found else 0.0
