"""Rules of the whole suite: which tier a test belongs to, and in which order the files of a tier are run."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
from tests.kernel.lacks import explain
from tests.syslog import no_syslog  # noqa: F401 - for every test
from tests.tiers import FAST, TIER, EmptyRunFails, in_order, tier_of

TESTS = Path(__file__).parent
TIER_FOLDERS = ("stack", "browser")
"""Folders that are wholly of their tier; kernel tests also live beside what they test and say so."""


def pytest_configure(config: pytest.Config) -> None:
    settings.register_profile(
        "lbadmin",
        # A busy machine is no failure; and a run looks at what the last one did, unless it is to explore.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize="LBADMIN_CAMPAIGN" not in os.environ,
    )
    settings.load_profile("lbadmin")
    if not hasattr(config, "workerinput"):  # in the process that sees every report, not in xdist's workers
        config.pluginmanager.register(EmptyRunFails())
        config.pluginmanager.register(BehaviourTable())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        if folder in TIER_FOLDERS:
            item.add_marker(folder)
        item.user_properties.append((TIER, tier_of(item)))
    items.sort(key=lambda item: in_order(item.path.relative_to(TESTS).as_posix()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    tier = tier_of(item)
    if tier != FAST and (why := explain(tier)):
        pytest.fail(why, pytrace=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded by now stays: looking through it for garbage again and again takes a tenth of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
