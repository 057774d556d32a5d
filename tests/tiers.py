"""The tiers: that each of those which were asked for ran something, what each came to, and in which order."""

import re
from collections import Counter, defaultdict

import pytest

FAST, TIERS = "fast", ("kernel", "stack", "browser")
"""Markers; a test that has none of them is of the fast tier."""
LONG = (
    "browser/test_control.py",
    "browser/test_views.py",
    "scenarios/test_demo.py",
    "browser/test_review.py",
    "browser/test_story.py",
    "stack/",
    "scenarios/",
    "lab/",
    "probes/",
)
"""Files, or folders of such, that take long: they come first, so that no worker is left with one at the end
while the others have nothing to do."""


TIER = "tier"
"""The property in which a report carries the tier of its test: its keywords name folders, too."""


def tier_of(item: pytest.Item) -> str:
    return next((name for name in TIERS if item.get_closest_marker(name)), FAST)


def in_order(path: str) -> int:
    """Where a file stands in the run: those of LONG in its order, all others behind them as they are."""
    return next((place for place, long in enumerate(LONG) if path.startswith(long)), len(LONG))


def tiers_asked(marks: str) -> set[str]:
    """The tiers that `-m` names, as in "kernel or stack"; none where it says anything else."""
    words = re.split(r"\s+or\s+", marks.strip())
    return set(words) if set(words) <= set(TIERS) else set()


class EmptyRunFails:
    """pytest itself fails where nothing was collected, but not where all that was collected was skipped, nor
    where one of several tiers that were asked for ran nothing."""

    def __init__(self) -> None:
        self._came_to: dict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if isinstance(report, pytest.SubtestReport):
            return  # a part of a test, which reports itself as well
        if report.when == "call" or not report.passed:
            # Of a test whose process ended with it nobody knows the tier.
            tier = str(dict(report.user_properties).get(TIER, "a process that ended"))
            self._came_to[tier][report.outcome if report.when == "call" or report.skipped else "error"] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        idle = self._idle(session.config)
        if exitstatus == pytest.ExitCode.OK and idle and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        if not config.option.collectonly:
            for tier in sorted({*self._came_to, *self._idle(config)}):
                counts = ", ".join(f"{number} {word}" for word, number in sorted(self._came_to[tier].items()))
                terminalreporter.write_line(f"{tier}: {counts or 'no test ran'}")

    def _idle(self, config: pytest.Config) -> set[str]:
        """The tiers that ran nothing."""
        ran = {tier for tier, counts in self._came_to.items() if counts["passed"] or counts["failed"]}
        asked = tiers_asked(config.option.markexpr)
        return asked - ran if asked else set() if ran else {"the run"}
