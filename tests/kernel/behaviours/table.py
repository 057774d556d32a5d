"""Behaviour by flavour and family: the table in docs/behaviours.md, and what a run made of it.

`python -m tests.kernel.behaviours.table` writes the page anew from the tests that there are.
"""

import importlib
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import Flavour

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[2] / "docs" / "behaviours.md"
CELLS = tuple(product(Flavour, Family))
"""The columns."""
_BEGIN, _END = "<!-- table -->\n", "<!-- end of the table -->\n"
_HEADS = ("legacy, IPv4", "legacy, IPv6", "nft, IPv4", "nft, IPv6")
_WORDS = {
    "tcp": "TCP",
    "udp": "UDP",
    "sctp": "SCTP",
    "syn": "SYN",
    "docker": "Docker",
    "output": "OUTPUT",
    "nat": "NAT",
}

Test = Callable[..., None]


def cells_of(test: Test) -> tuple[tuple[Flavour, Family], ...]:
    """Where a behaviour applies: everywhere, unless the test is marked `only`."""
    return getattr(test, "cells", CELLS)


def only(*cells: tuple[Flavour, Family]) -> Callable[[Test], Test]:
    """For a behaviour that one flavour or family alone has."""

    def mark(test: Test) -> Test:
        test.cells = cells  # type: ignore[attr-defined]
        return test

    return mark


def name_cell(cell: tuple[Flavour, Family]) -> str:
    return f"{cell[0]}-{cell[1]}"


def title_of(name: str) -> str:
    """The sentence that a test's name is."""
    words = [_WORDS.get(word, word) for word in name.removeprefix("test_").split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]]) + "."


def find_tests() -> Iterator[tuple[str, Test]]:
    """The tests of all behaviours, file by file in the order in which they are written."""
    for path in sorted(FOLDER.glob("test_*.py")):
        module = importlib.import_module(f"tests.kernel.behaviours.{path.stem}")
        for name, found in vars(module).items():
            is_test = name.startswith("test_") and inspect.isfunction(found)
            if is_test and {"lab", "bare_lab"} & set(inspect.signature(found).parameters):
                yield name, found


def make_table(results: dict[str, dict[str, str]] | None = None) -> str:
    """In Markdown. `results` is what a run made of each test and cell; without one, what tests there are."""
    lines = ["| behaviour | " + " | ".join(_HEADS) + " |", "|---" * (1 + len(CELLS)) + "|"]
    for name, test in find_tests():
        applies = {name_cell(cell) for cell in cells_of(test)}
        ran = dict.fromkeys(applies, "yes") if results is None else results.get(name)
        if ran is not None:
            cells = (ran.get(name_cell(cell), "") for cell in CELLS)
            lines.append(f"| {title_of(name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def kept_table() -> str:
    """The one in the page."""
    return PAGE.read_text().partition(_BEGIN)[2].partition(_END)[0]


def write_page() -> None:
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    after = rest.partition(_END)[2]
    PAGE.write_text(f"{before}{_BEGIN}{make_table()}{_END}{after}")


class BehaviourTable:
    """A pytest plugin: what the behaviours came to, in the process that sees every report."""

    def __init__(self) -> None:
        self._results: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if f"{FOLDER.name}/" not in report.nodeid or not (report.when == "call" or report.failed):
            return
        name, _, cell = report.nodeid.rpartition("::")[2].partition("[")
        if cell:
            self._results[name][cell.rstrip("]")] = "yes" if report.passed else "FAILED"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if any(name in self._results for name, _ in find_tests()):
            terminalreporter.section("behaviours")
            terminalreporter.write(make_table(self._results))


if __name__ == "__main__":
    write_page()
