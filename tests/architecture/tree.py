"""The tree as it is committed, for the tests beside this file."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def committed_files() -> tuple[Path, ...]:
    """Tracked files that still exist, and new ones that are not ignored."""
    # Under sudo the clone belongs to another user, which git refuses unless told.
    command = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(ROOT / name for name in names if name and (ROOT / name).is_file())


def committed_lines() -> Iterator[tuple[Path, int, str]]:
    """Every line of every text file, with its number."""
    for path in committed_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            yield path, number, line


def matches(pattern: str, *, under: str = "") -> list[str]:
    """`path:line: text` of every line of the tree that the pattern finds something in."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, number, line in committed_lines()
        if path.is_relative_to(ROOT / under) and re.search(pattern, line)
    ]


def run_python(code: str, *, state_dir: Path) -> str:
    """What a fresh interpreter in the top of the tree prints for `code`, with settings of its own."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "lbadmin.settings",
        "LBADMIN_STATE_DIR": str(state_dir),
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
