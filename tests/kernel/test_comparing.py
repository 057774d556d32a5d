"""Looking again and again whether the kernel carries a ruleset: cheap, and never blind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel import comparing
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.generation import read_generation
from balancer.kernel.node import NodeKernel
from balancer.kernel.others import find_programs, rules_before
from balancer.ruleset.parse import parse_save
from tests.kernel.machine import Namespace, document, load, ruleset, run, service

ADD_FOREIGN = "*filter\n-A INPUT -s 203.0.113.9/32 -j DROP\nCOMMIT\n"


class Parsed:
    """Counts how often a saved text was parsed."""

    def __init__(self) -> None:
        self.times = 0
        self._parse = comparing.parse_text

    def __call__(self, text: str) -> comparing.Snapshot:
        self.times += 1
        return self._parse(text)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parsed]:
    found = Parsed()
    monkeypatch.setattr(comparing, "parse_text", found)
    return found


def test_what_nobody_has_changed_is_not_parsed_again_and_what_somebody_changed_is_seen(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName], parsed: Parsed
) -> None:
    wanted = ruleset(service())
    kernel.sync(ruleset=wanted, document=document(service()))
    for _ in range(3):
        assert kernel.compare(ruleset=wanted).in_sync
    assert parsed.times == 1

    load(kind[0], ADD_FOREIGN)
    assert kernel.compare(ruleset=wanted).in_sync
    assert kernel.compare(ruleset=wanted).in_sync
    assert parsed.times == 2, "once for the rule of others"

    run(f"iptables-{kind[0]}", "-w", "-t", "nat", "-F", "LB-S-web")
    assert not kernel.compare(ruleset=wanted).in_sync
    run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    assert "+ sysctl: net.ipv4.ip_forward=1" in kernel.compare(ruleset=wanted).lines
    assert not kernel.compare(ruleset=ruleset(service(port=81))).in_sync, "another value is compared anew"


def test_a_rule_that_came_and_went_between_two_looks_is_no_difference(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName]
) -> None:
    wanted = ruleset(service())
    kernel.sync(ruleset=wanted, document=document(service()))
    assert kernel.compare(ruleset=wanted).in_sync
    tool = (f"iptables-{kind[0]}", "-w", "-t", "nat")
    run(*tool, "-I", "LB-S-web", "-j", "RETURN")
    run(*tool, "-D", "LB-S-web", "1")
    assert kernel.compare(ruleset=wanted).in_sync


def test_what_the_other_flavour_gets_meanwhile_is_reason_to_check_the_machine_anew(
    kernel: NodeKernel, kind: tuple[Flavour, DriverName]
) -> None:
    wanted = ruleset(service())
    kernel.sync(ruleset=wanted, document=document(service()))
    seen = {kernel.compare(ruleset=wanted).machine for _ in range(2)}
    for command in (("-A", "INPUT", "-s", "203.0.113.9", "-j", "DROP"), ("-P", "FORWARD", "DROP")):
        run(f"iptables-{kind[0].other}", "-w", *command)
        found = kernel.compare(ruleset=wanted)
        assert found.in_sync
        assert found.machine not in seen
        seen.add(found.machine)
    assert len(seen) == 3


def test_the_generation_moves_with_every_commit_to_nf_tables_and_stays_without(namespace: Namespace) -> None:
    load(Flavour.NFT, "*nat\nCOMMIT\n")
    first = read_generation()
    assert first is not None
    assert read_generation() == first
    run("iptables-nft-save")
    load(Flavour.LEGACY, "*nat\nCOMMIT\n")
    assert read_generation() == first
    load(Flavour.NFT, ADD_FOREIGN)
    assert read_generation() != first


def test_counters_and_times_are_no_change() -> None:
    one = "# Generated on Sat\n*nat\n:PREROUTING ACCEPT [1:60]\n-A PREROUTING -j LB-X\nCOMMIT\n"
    other = one.replace("Sat", "Sun").replace("[1:60]", "[2:120]")
    assert comparing.digest_text(one) == comparing.digest_text(other)
    assert comparing.digest_text(one) != comparing.digest_text(one.replace("ACCEPT", "DROP"))
    assert comparing.digest_text(one) != comparing.digest_text(one.replace("LB-X", "LB-Y"))


@pytest.mark.parametrize(
    ("table", "chain", "rules", "named"),
    [
        ("filter", "FORWARD", "-A FORWARD -s 203.0.113.9/32 -j DROP", True),
        ("filter", "FORWARD", "-A FORWARD -j USER", False),
        ("filter", "FORWARD", "-A FORWARD -j INNER", True),
        ("filter", "FORWARD", "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", False),
        ("nat", "PREROUTING", "-A PREROUTING -p tcp -j REDIRECT --to-ports 8080", True),
        ("nat", "PREROUTING", "-A PREROUTING -j ACCEPT", True),
        ("nat", "PREROUTING", "-A PREROUTING -j LOG", False),
        ("nat", "POSTROUTING", "-A POSTROUTING -j MASQUERADE", False),
        ("nat", "POSTROUTING", "-A POSTROUTING -d 10.0.0.0/24 -j ACCEPT", True),
        ("filter", "FORWARD", "-A FORWARD -j ACCEPT", True),
        ("filter", "INPUT", "-A INPUT -j ACCEPT", True),
        ("mangle", "FORWARD", "-A FORWARD -j ACCEPT", True),
        ("filter", "FORWARD", "-A FORWARD -i docker0 -j ACCEPT", False),
        ("filter", "FORWARD", "-A FORWARD -m conntrack --ctstate INVALID -j DROP", False),
        ("filter", "FORWARD", "-A FORWARD -m conntrack ! --ctstate INVALID -j DROP", True),
    ],
)
def test_rules_of_others_before_ours_are_named_where_they_may_decide(
    table: str, chain: str, rules: str, named: bool
) -> None:
    saved = (
        f"*{table}\n:{chain} ACCEPT [0:0]\n:LB-{chain} - [0:0]\n:USER - [0:0]\n:INNER - [0:0]\n"
        f"-A USER -j RETURN\n-A INNER -s 10.0.0.0/8 -j REJECT\n{{}}\nCOMMIT\n"
    )
    ours = f"-A {chain} -j LB-{chain}"
    before = rules_before(parse_save(saved.format(f"{rules}\n{ours}")), family=Family.IPV6)
    assert before == ((f"ipv6 {table}: {rules}",) if named else ())
    assert rules_before(parse_save(saved.format(f"{ours}\n{rules}")), family=Family.IPV6) == ()
    assert rules_before(parse_save(saved.format(rules)), family=Family.IPV6) == ()


def test_a_loop_of_chains_ends() -> None:
    saved = (
        "*filter\n:FORWARD ACCEPT\n:A -\n:B -\n:LB-FORWARD -\n-A A -j B\n-A B -j A\n"
        "-A FORWARD -j A\n-A FORWARD -j LB-FORWARD\nCOMMIT\n"
    )
    assert rules_before(parse_save(saved), family=Family.IPV4) == ()


def test_programs_are_known_by_their_chains_and_by_their_processes(tmp_path: Path) -> None:
    for number, name in enumerate(("firewalld", "bash", "kubelet"), start=1):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "comm").write_text(f"{name}\n")
    saved = parse_save("*nat\n:DOCKER - [0:0]\nCOMMIT\n*filter\n:f2b-sshd - [0:0]\nCOMMIT\n")
    assert find_programs(saved, proc=tmp_path) == ("Docker", "Kubernetes", "fail2ban", "firewalld")
    assert find_programs(proc=tmp_path / "none") == ()
