"""Lists that people write with an entry in each line."""

import re

from balancer.domain.problem import Problem

_INDEX = re.compile(r"\[(\d+)\]$")


def read_lines(text: str) -> list[tuple[int, str]]:
    """The entries, each with the number of its line from 1; empty lines hold none."""
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
    return [(number, entry) for number, line in lines if (entry := line.strip(" \t\r,"))]


def name_line(problem: Problem, text: str, *, of: str = "") -> str:
    """The message, after the line that it is about: `Line 17: …`, or `Deny list, line 17: …`."""
    found = _INDEX.search(problem.path)
    entries = read_lines(text)
    line = f"line {entries[int(found[1])][0]}" if found and int(found[1]) < len(entries) else ""
    where = ", ".join(part for part in (of, line) if part)
    return f"{where[:1].upper()}{where[1:]}: {problem.message}" if where else problem.message
