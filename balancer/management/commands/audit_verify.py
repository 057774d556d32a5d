"""manage.py audit_verify: whether the audit history is what was written."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from balancer.domain.chain import Head, Unreadable, Verdict, chain_id, verify_part
from balancer.domain.heads import parse_head
from balancer.management.commands._heads import Findings, search_files, search_this_host
from balancer.workflow.history import events_of_data, first_hash, verify_history

_HOW = "Keep a head elsewhere and give it with --head NUMBER:HASH, or name the file with --syslog FILE."


class Command(BaseCommand):
    help = (
        "Verify the audit history: every event by its hash, and the end against the heads in syslog."
        " Names the first bad event and exits with 1 where there is one."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--head", metavar="NUMBER:HASH", help="a head that was kept, instead of syslog's")
        parser.add_argument(
            "--syslog", type=Path, nargs="+", metavar="FILE", help="files to look for heads in"
        )
        parser.add_argument("--no-syslog", action="store_true", help="look for no heads")
        parser.add_argument("--file", type=Path, metavar="EXPORT", help="verify an export in JSON lines")

    def handle(self, *args: Any, **options: Any) -> None:
        given = _given_head(options["head"])
        if options["file"] is not None:
            verdict = _verify_file(options["file"], heads=given)
            self._say(verdict)
            return
        findings = None if given or options["no_syslog"] else _search(options["syslog"])
        verdict = verify_history(heads=findings.heads if findings else given)
        if findings is not None and findings.foreign and not findings.heads:
            raise CommandError(_foreign(verdict, findings))
        self._say(verdict)
        if findings is not None and findings.heads:
            newest = max(findings.heads)
            logged = _count(len(findings.heads), "head")
            self.stdout.write(f"It fits {logged} in syslog, the newest of event {newest.number}.")
        elif not given:
            self.stderr.write(_unproven(findings))

    def _say(self, verdict: Verdict) -> None:
        if verdict.fault is not None:
            raise CommandError(verdict.fault.message)
        gaps = f", {_count(verdict.gaps, 'gap')} where the export leaves events out" if verdict.gaps else ""
        head = f", head {verdict.last}" if verdict.last else ""
        self.stdout.write(f"{_count(verdict.count, 'event')}, chain intact{gaps}{head}")


def _given_head(text: str | None) -> set[Head]:
    if text is None:
        return set()
    head = parse_head(text)
    if head is None:
        raise CommandError(
            "--head takes NUMBER:HASH, as audit_verify and syslog write it: 12:5f0c… (64 digits)."
        )
    return {head}


def _search(files: list[Path] | None) -> Findings:
    """Before the walk: an event that is recorded meanwhile has its row before its head."""
    chain = chain_id(first_hash())
    if files is None:
        return search_this_host(chain=chain)
    try:
        return search_files(chain=chain, files=files)
    except OSError as error:
        raise CommandError(f"Cannot read {error.filename}: {error.strerror}.") from error


def _verify_file(path: Path, *, heads: set[Head]) -> Verdict:
    try:
        return verify_part(events_of_data(_lines(path)), heads=heads)
    except OSError as error:
        raise CommandError(f"Cannot read the export {path}: {error.strerror}.") from error


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Unreadable(f"line {number} of the file is not JSON") from error


def _foreign(verdict: Verdict, findings: Findings) -> str:
    what = verdict.fault.message if verdict.fault else f"Found {_count(verdict.count, 'event')}."
    return (
        f"{what} Syslog has no head of this chain, and {findings.foreign} of other chains: the history was"
        f" replaced from its first event on, or it is another database's. {_HOW}"
    )


def _unproven(findings: Findings | None) -> str:
    where = f" ({', '.join(findings.searched) or 'no log can be read here'})" if findings else ""
    return (
        f"No head of this chain was found outside the database{where}: nothing was altered, but events may"
        f" have been cut off the end. {_HOW}"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
