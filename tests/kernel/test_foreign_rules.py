"""Rules of others are byte for byte what they were, however often we write and whoever writes meanwhile."""

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from balancer.kernel.base import Flavour
from balancer.kernel.node import NodeKernel
from tests.kernel.machine import Namespace, document, foreign_part, load, ruleset, save, service

FOREIGN = (Path(__file__).parent / "foreign.txt").read_text()
APPLIES = 100 * int(os.environ["LBADMIN_CAMPAIGN"]) if "LBADMIN_CAMPAIGN" in os.environ else 30
"""In a campaign as many as docs/design/kernel.md names, or a multiple."""
KEPT_OF = 10
"""Of so many rules that the other program adds, it keeps one."""


class OtherProgram(threading.Thread):
    """Adds rules to its own chains and deletes them again, with `iptables -w`, until it is stopped."""

    def __init__(self, flavour: Flavour) -> None:
        super().__init__()
        self._command = [f"iptables-{flavour}", "-w"]
        self._stop_asked = threading.Event()
        self.failures: list[str] = []
        self.kept: dict[str, list[str]] = {"filter": [], "nat": []}
        self.edits = 0

    def run(self) -> None:
        number = 0
        while not self._stop_asked.is_set():
            number += 1
            table = "nat" if number % 2 else "filter"
            rule = ["-p", "udp", "-m", "comment", "--comment", f"number-{number}", "-j", "RETURN"]
            self._edit(table, "-A", rule)
            if number % KEPT_OF < 2:
                self.kept[table].append(f"-A CHURN {' '.join(rule)}")
            else:
                self._edit(table, "-D", rule)

    def _edit(self, table: str, verb: str, rule: list[str]) -> None:
        self.edits += 1
        done = subprocess.run(
            [*self._command, "-t", table, verb, "CHURN", *rule], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            self.failures.append(f"{verb} {rule}: {done.stderr}")

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(timeout=30)


def test_many_applies_beside_another_writer_lose_nothing_on_either_side(
    kernel: NodeKernel, kind: tuple[Flavour, str]
) -> None:
    flavour = kind[0]
    load(flavour, FOREIGN, counters=True)
    before = foreign_part(_save_bytes(flavour), without_chain="CHURN")
    versions = [(service(),), (service(scheduler="random"), service("api", port=81)), ()]
    other = OtherProgram(flavour)
    other.start()
    try:
        for number in range(APPLIES):
            version = versions[number % len(versions)]
            assert kernel.sync(ruleset=ruleset(*version), document=document(*version)).changed
    finally:
        other.stop()

    assert other.failures == []
    assert other.edits > APPLIES / 2, "the other program hardly wrote: nothing was tried"
    assert foreign_part(_save_bytes(flavour), without_chain="CHURN") == before
    assert _churn(flavour) == other.kept
    last = versions[(APPLIES - 1) % len(versions)]
    assert kernel.compare(ruleset=ruleset(*last)).in_sync


def test_our_removal_leaves_the_bytes_that_were_there_before_us(
    kernel: NodeKernel, kind: tuple[Flavour, str]
) -> None:
    load(kind[0], FOREIGN, counters=True)
    before = _save_bytes(kind[0])
    kernel.sync(ruleset=ruleset(service()), document=document(service()))
    assert _save_bytes(kind[0]) != before
    kernel.remove()
    assert _save_bytes(kind[0]) == before


def test_a_line_break_in_a_comment_of_others_is_not_taken_for_a_rule_of_ours(
    kernel: NodeKernel, kind: tuple[Flavour, str], namespace: Namespace
) -> None:
    flavour = kind[0]
    kernel.sync(ruleset=ruleset(service()), document=document(service()))
    for comment in ('a\n-A LB-S-web -j DROP\n"', "b\r\x0b\x1c\u2028COMMIT", "\\"):
        subprocess.run(
            [
                f"iptables-{flavour}",
                "-w",
                "-A",
                "INPUT",
                "-m",
                "comment",
                "--comment",
                comment,
                "-j",
                "ACCEPT",
            ],
            check=True,
        )
    assert kernel.compare(ruleset=ruleset(service())).in_sync
    assert not kernel.sync(ruleset=ruleset(service()), document=document(service())).changed
    more = (service(), service("api", port=81))
    assert kernel.sync(ruleset=ruleset(*more), document=document(*more)).changed


@pytest.mark.parametrize("table", ["filter", "nat"])
def test_the_foreign_fixture_is_what_the_tools_print(
    namespace: Namespace, flavour: Flavour, table: str
) -> None:
    """Else "unchanged" would say little about the rules that such programs write."""
    load(flavour, FOREIGN, counters=True)
    found = save(flavour, counters=True).splitlines()
    missing = [line for line in _block(table) if "-A" in line and line not in found]
    assert missing == []


def _save_bytes(flavour: Flavour) -> str:
    text = save(flavour, counters=True)
    if flavour is Flavour.NFT:
        return text
    # libiptc (__iptcc_p_del_policy) zeroes the counters of policies at each commit to a legacy table, whoever
    # makes it, `iptables -A` included. The counters of rules stay.
    return re.sub(r"^(:[A-Z]+ (?:ACCEPT|DROP)) \[.*\]$", r"\1", text, flags=re.M)


def _churn(flavour: Flavour) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    table = ""
    for line in save(flavour).splitlines():
        table = line[1:] if line.startswith("*") else table
        if line.startswith("-A CHURN "):
            found.setdefault(table, []).append(line)
    return found


def _block(table: str) -> list[str]:
    return FOREIGN.split(f"*{table}\n")[1].split("COMMIT\n")[0].splitlines()
