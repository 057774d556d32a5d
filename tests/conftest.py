"""Rules of the whole suite: which tier a test belongs to, and that a run which ran nothing has failed."""

import gc
from pathlib import Path

import pytest
from hypothesis import settings

from tests.broker import no_broker  # noqa: F401 - for every test
from tests.cast import (  # noqa: F401 - the cast is there for every test
    administrator,
    approver,
    author,
    flush_past_the_triggers,
    operator,
    site,
    stranger,
    superuser,
    viewer,
)
from tests.kernel.behaviours.table import BehaviourTable
from tests.syslog import no_syslog  # noqa: F401 - for every test

TESTS = Path(__file__).parent
TIER_FOLDERS = ("stack", "browser")
"""Folders that are wholly of their tier; kernel tests also live beside what they test and say so."""


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile("lbadmin", deadline=None)  # a busy machine is no failure
    settings.load_profile("lbadmin")
    if not hasattr(config, "workerinput"):  # in the process that sees every report, not in xdist's workers
        config.pluginmanager.register(EmptyRunFails())
        config.pluginmanager.register(BehaviourTable())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in TIER_FOLDERS:
            item.add_marker(folder)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded by now stays: looking through it for garbage again and again takes a tenth of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class EmptyRunFails:
    """pytest itself fails where nothing was collected, but not where all that was collected was skipped."""

    def __init__(self) -> None:
        self.executed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped:
            self.executed += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and not self.executed and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
