"""The pictures in the docs that are drawn from the code are what the code draws."""

import re
from collections.abc import Callable

import pytest

from balancer.domain.drawing import draw_changes, draw_jobs, draw_rehearsals
from tests.architecture.tree import ROOT

PAGE = ROOT / "docs/design/workflow.md"


@pytest.mark.parametrize("draw", [draw_changes, draw_jobs, draw_rehearsals])
def test_the_page_of_the_workflow_shows_the_states_as_the_code_has_them(draw: Callable[[], str]) -> None:
    text = draw()
    shown = re.findall(r"^```mermaid\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)

    assert text in shown, f"Paste this into {PAGE.relative_to(ROOT)}:\n\n```mermaid\n{text}```\n"
