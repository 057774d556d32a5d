"""Heads of the audit chain, looked for where syslog keeps its lines."""

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from balancer.domain.chain import Head
from balancer.domain.heads import TAG, find_head

SYSLOG_FILES = tuple(
    Path(f"/var/log/{name}{rotation}")
    for name in ("auth.log", "secure", "syslog", "messages")
    for rotation in (".1", "")
)


@dataclass(slots=True)
class Findings:
    """What was found: the heads of the chain in question, how many of others, and where was looked."""

    heads: set[Head] = field(default_factory=set)
    foreign: int = 0
    searched: list[str] = field(default_factory=list)


def search_files(*, chain: str, files: Iterable[Path]) -> Findings:
    """Raises OSError for a file that cannot be read."""
    findings = Findings()
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as lines:
            _add(findings, chain=chain, lines=lines)
        findings.searched.append(str(path))
    return findings


def search_this_host(*, chain: str) -> Findings:
    """In the usual files, as far as they may be read, and in the journal."""
    readable = (path for path in SYSLOG_FILES if path.is_file() and os.access(path, os.R_OK))
    findings = search_files(chain=chain, files=readable)
    if shutil.which("journalctl"):
        _add(findings, chain=chain, lines=_journal())
        findings.searched.append("the journal")
    return findings


def _journal() -> Iterator[str]:
    command = ["journalctl", "--identifier", TAG, "--output", "short-iso", "--no-pager", "--quiet"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        yield from process.stdout


def _add(findings: Findings, *, chain: str, lines: Iterable[str]) -> None:
    for line in lines:
        found = find_head(line)
        if found is None:
            continue
        if found.chain == chain:
            findings.heads.add(found.head)
        else:
            findings.foreign += 1
