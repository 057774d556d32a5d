"""The table of what was counted, on the node's own disk, beside what its guard keeps.

    counters.json            what was counted, as of the last look
    counters.previous.json   the same before that

Both change only under the writer lock of the kernel. Whoever finds the first damaged goes on from the second.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

from balancer.kernel.counter_table import CounterTable, read_rows, write_rows
from balancer.kernel.guard_files import Damaged, GuardError, link_file, read_file, write_file

_GOOD_COPY = "What was counted goes on from the copy before it; some seconds of it may be missing."
_ANEW = "Counting goes on from what the console was told last."
FILE, PREVIOUS = "counters.json", "counters.previous.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """`CounterTable` as it is written. `rows` is one text, which is the fastest to write and to sum."""

    epoch: str
    kernel: str
    rows: str


class CounterFiles:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path, self._previous = directory / FILE, directory / PREVIOUS
        self._known: tuple[tuple[int, int] | None, CounterTable] | None = None
        self._sound: tuple[int, int] | None = None
        """Of the file that was seen to be whole."""
        self._written = ""
        self.said: list[str] = []
        """Sentences about what was found damaged; whoever shows them takes them out."""

    def read(self) -> CounterTable:
        """The table as it is on the disk; from the copy before, or a new one, where that is damaged."""
        stamp = self._stamp()
        if self._known is None or self._known[0] != stamp:
            table, is_sound = self._read_good()
            self._known, self._sound = (stamp, table), stamp if is_sound else None
        return self._known[1]

    def write(self, table: CounterTable) -> None:
        """On the disk when this returns. Raises GuardError."""
        rows = write_rows(table)
        text = "\n".join((table.epoch, table.kernel, rows))
        if self._known is not None and self._stamp() == self._known[0] and text == self._written:
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise GuardError(f"The directory {self._directory} cannot be made: {error.strerror}.") from error
        # A damaged file never takes the place of the good copy.
        if self._sound is not None and self._stamp() == self._sound:
            link_file(self._path, self._previous)
        write_file(self._path, Counters(epoch=table.epoch, kernel=table.kernel, rows=rows))
        stamp = self._stamp()
        assert stamp is not None
        self._known, self._sound, self._written = (stamp, table), stamp, text

    def _stamp(self) -> tuple[int, int] | None:
        """Every write makes a new file."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _read_good(self) -> tuple[CounterTable, bool]:
        """And whether it is the file itself, and not the copy."""
        for path, otherwise in ((self._path, _GOOD_COPY), (self._previous, _ANEW)):
            try:
                found = read_file(path, Counters)
                if found is not None:
                    rows = read_rows(found.rows)
                    table = CounterTable(epoch=found.epoch, kernel=found.kernel, series=rows)
                    return table, path == self._path
            except (Damaged, ValueError) as error:
                self.said.append(f"{error} {otherwise}")
        return CounterTable(epoch=uuid.uuid4().hex), False
