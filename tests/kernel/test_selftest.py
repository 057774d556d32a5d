"""The self-test finds what is wrong with python-iptables; reading back finds what the self-test did not."""

from pathlib import Path

import pytest

from balancer.kernel import selection
from balancer.kernel.base import DriverName, Flavour, Rejected
from balancer.kernel.lock import xtables_lock_path
from balancer.kernel.node import NodeKernel
from balancer.kernel.selftest import run_selftest
from balancer.ruleset.turns import without_phase
from tests.kernel.faults import IMPORT_FAILS, OPTION_NOT_FOUND, Spoil, before_commit, option_lost
from tests.kernel.machine import Namespace, document, held, ruleset, save, service

LEGACY = Flavour.LEGACY
FAULTS = {
    "an option that is not found": (OPTION_NOT_FOUND, "probability"),
    "an option that gets lost": (option_lost("packet"), "other rules than it was told"),
    "a library that does not load": (IMPORT_FAILS, "iptc was imported"),
    "a crash": (before_commit("os.abort()"), "-6"),
}


@pytest.fixture
def kernel(namespace: Namespace) -> NodeKernel:
    """Carries one service already; its self-test was passed."""
    kernel = NodeKernel(flavour=LEGACY, driver=DriverName.PYTHON_IPTABLES, wait_seconds=5)
    kernel.sync(ruleset=ruleset(service("web")), document=document(service("web")))
    return kernel


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
def test_the_self_test_finds_a_fault_and_says_which(
    namespace: Namespace, spoil: Spoil, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    assert run_selftest() is None
    spoil(fault)
    found = run_selftest()
    assert found is not None
    assert reason in found

    monkeypatch.setattr(selection, "why_not_python_iptables", lambda: found)
    chosen = selection.select(flavour=LEGACY, driver=None)
    assert chosen.driver is DriverName.IPTABLES_RESTORE
    assert found in chosen.reason
    with pytest.raises(Rejected, match="failed its self-test"):
        selection.select(flavour=LEGACY, driver=DriverName.PYTHON_IPTABLES)


def test_the_self_test_leaves_this_namespace_and_its_lock_alone(namespace: Namespace) -> None:
    with held(xtables_lock_path()):
        assert run_selftest() is None
    assert save(LEGACY) == ""


def test_what_was_written_is_read_back_and_a_wrong_rule_is_taken_out_again(
    kernel: NodeKernel, spoil: Spoil
) -> None:
    before = without_phase(save(LEGACY))
    spoil(option_lost("dport"))
    more = (service("web"), service("api", port=81))
    with pytest.raises(Rejected, match="other rules than were written"):
        kernel.sync(ruleset=ruleset(*more), document=document(*more))
    assert without_phase(save(LEGACY)) == before, "but for the turn at which a round robin is"


@pytest.mark.parametrize(
    "statement", ["os.abort()", "table == 'nat' and os.abort()"], ids=["at once", "half way"]
)
def test_a_child_that_always_crashes_leaves_the_kernel_as_it_was(
    kernel: NodeKernel, spoil: Spoil, statement: str
) -> None:
    before = save(LEGACY)
    spoil(before_commit(statement))
    more = (service("web"), service("api", port=81))
    with pytest.raises(Rejected, match="holds what it held before"):
        kernel.sync(ruleset=ruleset(*more), document=document(*more))
    assert save(LEGACY) == before


def test_a_child_that_crashes_once_is_followed_by_one_that_finishes_the_work(
    kernel: NodeKernel, spoil: Spoil, tmp_path: Path
) -> None:
    marker = str(tmp_path / "crashed")
    spoil(
        before_commit(
            f"table == 'nat' and not os.path.exists({marker!r}) and (open({marker!r}, 'w'), os.abort())"
        )
    )
    more = (service("web"), service("api", port=81))
    receipt = kernel.sync(ruleset=ruleset(*more), document=document(*more))
    assert receipt.tables_committed == ("filter", "nat")
    assert kernel.compare(ruleset=ruleset(*more)).in_sync
