"""What the documents tell a person to type exists, and what a person types explains itself."""

import os
import re
import subprocess

import pytest
from django.core.management import get_commands, load_command_class

from tests.architecture.tree import ROOT, committed_files, matches

OWN_COMMANDS = sorted(name for name, app in get_commands().items() if app == "balancer")
DOCUMENTS = [path for path in committed_files() if path.suffix == ".md"]


def test_the_project_has_management_commands() -> None:
    assert {"render", "trace", "kernel_sync"} <= set(OWN_COMMANDS)


@pytest.mark.parametrize("name", OWN_COMMANDS)
def test_every_management_command_says_what_it_does(name: str) -> None:
    assert load_command_class("balancer", name).help.strip()


def test_the_readme_names_the_two_commands_that_a_newcomer_runs() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "sudo script/demo" in readme
    assert "sudo script/test" in readme


def test_ci_runs_what_the_readme_tells_a_newcomer_to_run() -> None:
    assert re.search(r"^(if .* )?exec (sudo .* )?script/test\b", (ROOT / ".ci/run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_script_and_command_that_a_document_names_exists(path: str) -> None:
    text = (ROOT / path).read_text()
    scripts = set(re.findall(r"\bscript/[a-z_]+(?:-[a-z_]+)*", text))
    commands = set(re.findall(r"manage\.py ([a-z_]+)", text))

    assert [s for s in sorted(scripts) if not os.access(ROOT / s, os.X_OK)] == []
    assert commands - set(get_commands()) == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_links_to_exists(path: str) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", (ROOT / path).read_text())

    assert [link for link in links if not ((ROOT / path).parent / link).exists()] == []


def test_an_unknown_tier_is_refused_with_the_names_of_those_there_are() -> None:
    done = subprocess.run([ROOT / "script/test", "nonsense"], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "fast, kernel, stack and browser" in done.stderr


def test_no_test_is_skipped() -> None:
    assert matches(r"pytest\.skip\(|mark\.skip(if)?\b|importorskip\(|unittest\.skip", under="tests") == []
