"""The hazards of python-iptables 1.2.0 (DESIGN.md section 7): each test fails without the remedy."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from balancer.domain.types import Document, Family
from balancer.kernel.base import Busy, DriverName, Flavour, Receipt, Rejected
from balancer.kernel.client_sets import client_sets_for
from balancer.kernel.flavour import read_snapshot
from balancer.kernel.lock import xtables_lock_path
from balancer.kernel.network_sets import network_sets_for
from balancer.kernel.node import NodeKernel
from balancer.kernel.plan import JumpEdit, TablePlan, make_plan, want_ruleset
from balancer.kernel.pyiptables import BULK_RULES, PythonIptablesDriver
from balancer.kernel.restore import RestoreDriver
from balancer.kernel.selftest import EVERY_FORM
from tests.kernel.faults import IMPORT_FAILS, Spoil, before_commit, run_once
from tests.kernel.machine import (
    Namespace,
    document,
    held,
    own_part,
    ruleset,
    run,
    save,
    service,
    wait_for_waiter,
)

LEGACY, IPV4 = Flavour.LEGACY, Family.IPV4
SOURCE = Path(__file__).parents[2]


@pytest.fixture
def driver() -> PythonIptablesDriver:
    return PythonIptablesDriver(family=IPV4, wait_seconds=5)


def make_kernel(wait_seconds: float = 5) -> NodeKernel:
    return NodeKernel(flavour=LEGACY, driver=DriverName.PYTHON_IPTABLES, wait_seconds=wait_seconds)


def sync(*services: dict, kernel: NodeKernel | None = None) -> Receipt:
    return (kernel or make_kernel()).sync(ruleset=ruleset(*services), document=document(*services))


def foreign_edit(tmp_path: Path, address: str) -> list[str]:
    """A command that edits the table without taking the lock that everybody else takes."""
    lock = f"XTABLES_LOCKFILE={tmp_path}/nobodys.lock"
    return ["env", lock, "iptables-legacy", "-A", "INPUT", "-s", address, "-j", "DROP"]


def test_it_takes_the_xtables_lock_so_that_no_foreign_edit_is_lost(
    namespace: Namespace, tmp_path: Path
) -> None:
    sync(service())
    with ThreadPoolExecutor() as pool, held(xtables_lock_path()):
        syncing = pool.submit(sync, service(scheduler="random"), service("new", port=81))
        wait_for_waiter(xtables_lock_path())
        run(*foreign_edit(tmp_path, "203.0.113.7"))
    assert syncing.result(timeout=20).changed
    text = save(LEGACY)
    assert "-A INPUT -s 203.0.113.7/32 -j DROP" in text
    assert "LB-S-new" in text


def test_a_lock_that_stays_taken_is_busy_and_nothing_is_written(namespace: Namespace) -> None:
    sync(service())
    before = save(LEGACY)
    with held(xtables_lock_path()), pytest.raises(Busy, match="xtables lock"):
        sync(service(port=81), kernel=make_kernel(wait_seconds=0.3))
    assert save(LEGACY) == before


def test_a_commit_that_the_kernel_answers_with_eagain_is_made_again_on_what_is_there_now(
    namespace: Namespace, spoil: Spoil, tmp_path: Path
) -> None:
    sync(service())
    spoil(before_commit(run_once(foreign_edit(tmp_path, "203.0.113.7"), marker=tmp_path / "done")))
    # drop_invalid off changes the filter table, which is the one that the other program edits.
    receipt = sync(service(access={"drop_invalid": False}), service("new", port=81))
    assert receipt.changed
    assert "-A INPUT -s 203.0.113.7/32 -j DROP" in save(LEGACY)
    assert (
        make_kernel()
        .compare(ruleset=ruleset(service(access={"drop_invalid": False}), service("new", port=81)))
        .in_sync
    )


def test_eagain_for_ever_is_told_as_busy_and_not_swallowed(
    namespace: Namespace, spoil: Spoil, tmp_path: Path
) -> None:
    sync(service())
    before = own_part(save(LEGACY))
    spoil(before_commit(f"subprocess.run({foreign_edit(tmp_path, '203.0.113.7')!r}, check=True)"))
    with pytest.raises(Busy, match="without taking the xtables lock"):
        sync(service(access={"drop_invalid": False}))
    assert own_part(save(LEGACY)) == before


def test_a_transaction_commits_each_table_once(namespace: Namespace, spoil: Spoil, tmp_path: Path) -> None:
    log = tmp_path / "commits"
    make_kernel().facts()  # the self-test, which commits too
    spoil(before_commit(f"open({str(log)!r}, 'a').write('commit ')"))
    sync(service("web"), service("api", port=81))
    assert log.read_text().split() == ["commit", "commit"]


def test_every_form_of_rule_comes_out_as_iptables_restore_writes_it(
    namespace: Namespace, driver: PythonIptablesDriver
) -> None:
    def write_with(chosen: PythonIptablesDriver | RestoreDriver) -> str:
        fresh = Namespace()
        with fresh.entered():
            before = read_snapshot(flavour=LEGACY, family=IPV4)
            with network_sets_for(EVERY_FORM), client_sets_for(EVERY_FORM, document=Document()):
                chosen.write(make_plan(snapshot=before, wanted=want_ruleset(EVERY_FORM), family=IPV4))
            text = save(LEGACY)
        fresh.close()
        return text

    expected = write_with(RestoreDriver(flavour=LEGACY, family=IPV4, wait_seconds=5))
    assert "--probability 0.33333333349" in expected
    assert write_with(driver) == expected


UNFIT = {
    "a port that would become every port": "-p tcp -m tcp --dport 99999 -j ACCEPT",
    "a match that iptc.easy would leave out": "-m ttl --ttl-lt 5 -j ACCEPT",
    "a limit that is not spelled out": "-m limit --limit 5/sec -j ACCEPT",
    "an interface that would become its opposite": "-i !eth0 -j ACCEPT",
    "an interface too long for the kernel": "-i eth01234567890123 -j ACCEPT",
    "an address of the other family": "-d 2001:db8::1/128 -j ACCEPT",
    "a comment with what libxtables might split": '-m comment --comment "a b" -j ACCEPT',
    "more packets than turns": "-m statistic --mode nth --every 2 --packet 2 -j ACCEPT",
    "a share of nothing": "-m statistic --mode random --probability 0.00000000000 -j ACCEPT",
    "a mark of more than 32 bits": "-m connmark --mark 0x100000000/0x100000000 -j ACCEPT",
    "a reset of what is not TCP": "-p udp -j REJECT --reject-with tcp-reset",
    "a backend at port 0": "-p tcp -j DNAT --to-destination 10.0.0.3:0",
    "a chain of others": "-j DOCKER",
}


@pytest.mark.parametrize("rule", UNFIT.values(), ids=UNFIT)
def test_a_value_that_is_not_right_never_reaches_libxtables(
    namespace: Namespace, spoil: Spoil, driver: PythonIptablesDriver, rule: str
) -> None:
    spoil(IMPORT_FAILS)
    with pytest.raises(Rejected) as refusal:
        driver.write(
            [TablePlan(table="filter", write={"LB-FINE": ("-j ACCEPT",), "LB-X": ("-j DROP", rule)})]
        )
    assert "was imported" not in str(refusal.value)
    assert repr(rule) in str(refusal.value)
    assert save(LEGACY) == ""


def test_names_of_chains_are_checked_as_well(namespace: Namespace, driver: PythonIptablesDriver) -> None:
    for plan in (
        TablePlan(table="filter", write={"DOCKER": ("-j ACCEPT",)}),
        TablePlan(table="filter", delete=("INPUT",)),
        TablePlan(table="filter", write={"LB-" + "x" * 26: ()}),
        TablePlan(table="filter", jumps=(JumpEdit(builtin="MY-CHAIN", chain="LB-X", insert_at=1),)),
    ):
        with pytest.raises(Rejected):
            driver.write([plan])


def test_a_thousand_bad_values_poison_nothing(namespace: Namespace, driver: PythonIptablesDriver) -> None:
    bad = tuple(f"-p tcp -m tcp --dport {70000 + i} -j ACCEPT" for i in range(1000))
    unlimited = PythonIptablesDriver(family=IPV4, wait_seconds=5, bulk_rules=sys.maxsize)
    with pytest.raises(Rejected):
        unlimited.write([TablePlan(table="filter", write={"LB-X": bad})])
    driver.write([TablePlan(table="filter", write={"LB-X": ("-p tcp -m tcp --dport 80 -j ACCEPT",)})])
    assert "-A LB-X -p tcp -m tcp --dport 80 -j ACCEPT" in save(LEGACY)


def test_writers_in_several_threads_take_turns(namespace: Namespace) -> None:
    kernel = make_kernel(wait_seconds=30)
    documents = [(service(port=80 + i), service("api", port=200 + i)) for i in range(4)]
    with ThreadPoolExecutor(max_workers=4) as pool:
        receipts = list(pool.map(lambda services: sync(*services, kernel=kernel), documents))
    assert all(receipt.changed for receipt in receipts)
    assert [kernel.compare(ruleset=ruleset(*services)).in_sync for services in documents].count(True) == 1


def test_the_process_that_serves_people_never_imports_iptc() -> None:
    command = "import sys, balancer.kernel.node; sys.exit('iptc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False, cwd=SOURCE).returncode == 0


def test_it_opens_no_table_that_it_does_not_write(namespace: Namespace) -> None:
    sync(service())
    assert set(Path("/proc/thread-self/net/ip_tables_names").read_text().split()) == {"filter", "nat"}


def test_it_is_refused_for_the_nft_flavour_and_for_ipv6(namespace: Namespace) -> None:
    nft = NodeKernel(flavour=Flavour.NFT, driver=DriverName.PYTHON_IPTABLES)
    with pytest.raises(Rejected, match="legacy tables only"):
        nft.sync(ruleset=ruleset(), document=document())
    with pytest.raises(Rejected, match="IPv4 only"):
        PythonIptablesDriver(family=Family.IPV6, wait_seconds=5)


def test_many_rules_take_the_restore_path(namespace: Namespace, spoil: Spoil) -> None:
    make_kernel().facts()  # the self-test comes first, unspoiled
    spoil(IMPORT_FAILS)
    with pytest.raises(Rejected, match="was imported"):
        sync(service())
    many = [service(f"s{i}", port=1000 + i) for i in range(BULK_RULES // 5)]
    assert sync(*many).changed
    assert make_kernel().compare(ruleset=ruleset(*many)).in_sync


def test_a_refusal_carries_no_python_noise(namespace: Namespace, driver: PythonIptablesDriver) -> None:
    with pytest.raises(Rejected) as refusal:
        driver.write([TablePlan(table="nat", write={"LB-X": ("-j LB-NOWHERE",)})])
    assert "Traceback" not in str(refusal.value)
    assert "LB-NOWHERE" in str(refusal.value)


def test_loading_it_runs_no_compiler(tmp_path: Path) -> None:
    """python-iptables looks for its extension module with gcc and ld, as root, at each import."""
    for name in ("gcc", "cc", "ld"):
        tool = tmp_path / name
        tool.write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/called\nexit 1\n")
        tool.chmod(0o755)
    load = "from balancer.kernel.pyiptables_loading import prepare_import; prepare_import(); import iptc"
    told = "import sys; assert 'setuptools' not in sys.modules; print(iptc.xtables.xtables_version)"

    done = subprocess.run(
        [sys.executable, "-c", f"{load}; {told}"],
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"},
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip().isdecimal()
    assert not (tmp_path / "called").exists()
