"""What the documents name is there: modules, paths, settings, options, headings, decisions, ids of checks."""

import re
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.architecture.tree import ROOT, committed_files

DOCUMENTS = [path for path in committed_files() if path.suffix == ".md"]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
OWN_COMMANDS = sorted(name for name, app in get_commands().items() if app == "balancer")
SETTING = re.compile(r"LBADMIN_[A-Z0-9_]*[A-Z0-9]")
OPERATING = (ROOT / "docs/guides/operating.md").read_text()
OF_DEVELOPERS = {"LBADMIN_DEBUG", "LBADMIN_GUARD"}
"""What tests and this tree's own developers set, and nobody who operates lbadmin."""


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_path_of_the_tree_that_a_document_names_exists(path: Path) -> None:
    packages = {found.name for found in (ROOT / "balancer").iterdir() if found.is_dir()}
    tops = {name.relative_to(ROOT).parts[0] for name in committed_files()}
    named = [text for text in _code_of(path) if "/" in text and re.fullmatch(r"[\w./-]+", text)]

    missing = []
    for text in named:
        first = text.split("/")[0]
        roots = [ROOT] * (first in tops) + [ROOT / "balancer"] * (first in packages)
        if roots and "NNNN" not in text and not any(_is_there(root / text) for root in roots):
            missing.append(text)
    assert missing == []


@pytest.mark.parametrize("package", ["kernel", "workflow", "probes"])
def test_every_module_in_the_table_of_a_design_page_exists(package: str) -> None:
    assert _modules_in_table(package) - _modules_of(package) == set()


@pytest.mark.parametrize("package", ["kernel", "workflow"])
def test_the_table_of_a_design_page_names_every_module_of_its_package(package: str) -> None:
    assert _modules_of(package) - _modules_in_table(package) == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_heading_that_a_document_links_to_exists(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", path.read_text())

    missing = []
    for file, anchor in links:
        target = path.parent / file if file else path
        if anchor not in _anchors_of(target):
            missing.append(f"{file}#{anchor}")
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_every_option_of_a_command_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text().replace("\\\n", " ")

    for command, rest in re.findall(
        r"manage\.py (trace|render|rehearse|kernel_sync|audit_verify|serve|demo)\b([^`#\n]*)", text
    ):
        known = load_command_class("balancer", command).create_parser("manage.py", command)
        assert set(re.findall(r"--[a-z][a-z-]+", rest)) <= set(known._option_string_actions), command


def test_every_setting_that_a_document_names_is_read_and_every_setting_of_an_operator_is_told() -> None:
    told = {
        name for path in DOCUMENTS for name in re.findall(r"LBADMIN_[A-Z0-9_]*[A-Z0-9]", path.read_text())
    }
    code = [path for path in committed_files() if path.suffix in {".py", ".sh", ""}]
    read = {name for path in code for name in SETTING.findall(path.read_text())}
    settings = (ROOT / "lbadmin/settings.py").read_text()
    of_operators = set(re.findall(r'"(LBADMIN_[A-Z0-9_]+|DATABASE_URL)"', settings)) - OF_DEVELOPERS

    assert told - read == set()
    assert {name for name in of_operators if f"`{name}`" not in OPERATING} == set()


def test_the_guide_says_what_to_do_about_every_check_of_a_machine_and_about_no_other() -> None:
    kernel = "".join(path.read_text() for path in (ROOT / "balancer/kernel").glob("*.py"))
    table = OPERATING.partition("| id | what keeps")[2].partition("\n\n")[0]

    assert set(re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)) == set(
        re.findall(r'HostCheck\(\s*id="([a-z-]+)"', kernel)
    )


def test_the_list_of_decisions_has_all_of_them_in_their_order() -> None:
    pages = sorted((ROOT / "docs/adr").glob("0*.md"))
    listed = re.findall(r"\]\((0[^)]+)\) \| (.+) \|", (ROOT / "docs/adr/README.md").read_text())
    titles = [page.read_text().partition("\n")[0].partition(": ")[2] for page in pages]

    assert listed == list(zip([page.name for page in pages], titles, strict=True))


def _code_of(path: Path) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL))


def _is_there(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + ".py").exists()


def _modules_of(package: str) -> set[str]:
    """Its sub-packages among them."""
    found = (ROOT / "balancer" / package).iterdir()
    return {path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()} - {
        "__init__"
    }


def _modules_in_table(package: str) -> set[str]:
    """Of "`selftest` (`_child`)", both: `selftest` and `selftest_child`."""
    page = (ROOT / f"docs/design/{package}.md").read_text()
    rows = page.partition("| module |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows]
    found: set[str] = set()
    for cell in cells:
        main = ""
        for name in cell:
            main = main if name.startswith("_") else name
            found.add(main + name if name.startswith("_") else name)
    return found


def _anchors_of(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
