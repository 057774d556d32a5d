"""What INPUT would drop, read from rules as ufw, fail2ban, RHEL and people write them."""

import pytest

from balancer.domain.observation import InputPath
from balancer.domain.types import Service
from balancer.kernel.base import Flavour
from balancer.kernel.input_rules import find_input_path
from balancer.kernel.input_walk import RULES_KEPT
from balancer.ruleset.parse import parse_save
from tests.documents import document, service_data


def path_of(*rules: str, policy: str = "ACCEPT") -> InputPath:
    """Of rules as iptables-save prints them: `INPUT -p tcp -j DROP`."""
    chains = sorted({rule.split()[0] for rule in rules} - {"INPUT"})
    lines = [f":INPUT {policy} [0:0]", *(f":{c} - [0:0]" for c in chains), *(f"-A {r}" for r in rules)]
    saved = "\n".join(["*filter", *lines, "COMMIT", ""])
    return find_input_path(parse_save(saved), flavour=Flavour.NFT)


def drops(*rules: str) -> list[str]:
    return [rule.text for rule in path_of(*rules).rules if rule.drops]


def web(**fields: object) -> Service:
    return document(service_data(**fields)).services[0]


def against(service: Service, *rules: str, policy: str = "ACCEPT") -> tuple[list[str], bool]:
    met, by_policy = path_of(*rules, policy=policy).rules_against(service)
    return [rule.text for rule in met], by_policy


def test_a_rule_is_told_with_what_it_is_about() -> None:
    (rule,) = path_of(
        "INPUT -s 203.0.113.0/24 -d 198.51.100.1/32 -i eth0 -p tcp -m multiport --dports 80,8000:8100"
        " -j REJECT --reject-with tcp-reset"
    ).rules
    assert (rule.chain, rule.verdict, rule.protocol, rule.exact) == ("INPUT", "REJECT", "tcp", True)
    assert rule.ports == ((80, 80), (8000, 8100))
    assert (rule.in_interface, str(rule.source), str(rule.destination)) == (
        "eth0",
        "203.0.113.0/24",
        "198.51.100.1/32",
    )
    assert rule.text.startswith("-A INPUT -s 203.0.113.0/24")


def test_a_rule_in_a_chain_that_input_leads_to_is_about_what_both_are_about() -> None:
    (rule,) = path_of(
        "INPUT -p tcp -m multiport --dports 22,80 -j f2b-web",
        "f2b-web -s 203.0.113.9/32 -j REJECT --reject-with icmp-port-unreachable",
        "f2b-web -j RETURN",
    ).rules
    assert (rule.chain, rule.protocol, rule.ports) == ("f2b-web", "tcp", ((22, 22), (80, 80)))
    assert str(rule.source) == "203.0.113.9/32"


@pytest.mark.parametrize(
    "rule",
    [
        "INPUT -m conntrack --ctstate INVALID -j DROP",
        "INPUT -m state --state RELATED,ESTABLISHED -j DROP",
        "INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP",
        "INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE -j DROP",
        "INPUT -m addrtype --dst-type BROADCAST -j DROP",
        "INPUT -m addrtype ! --dst-type LOCAL -j DROP",
        "INPUT -m pkttype --pkt-type multicast -j DROP",
        "INPUT -i lo -j DROP",
        "INPUT -p icmp -j DROP",
        'INPUT -p tcp -m tcp --dport 80 -j LOG --log-prefix "dropped -j DROP"',
        "INPUT -j LB-INPUT",
    ],
)
def test_what_no_clients_first_packet_meets_is_left_out(rule: str) -> None:
    ours = ("LB-INPUT -p tcp -m connmark --mark 0x40000000/0x70000000 -j REJECT --reject-with tcp-reset",)
    assert drops(rule, *ours) == []


@pytest.mark.parametrize(
    "rule",
    [
        "INPUT ! -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j DROP",
        "INPUT -p tcp -m tcp ! --dport 22 -j DROP",
        "INPUT -m set --match-set blocked src -j DROP",
        "INPUT -p tcp -m hashlimit --hashlimit-above 5/sec --hashlimit-name x -j DROP",
        'INPUT -p tcp -m comment --comment "it\'s \\"ours\\" -j ACCEPT" -m recent --update --name x -j DROP',
        "INPUT -p tcp --a-match-of-the-future x y --z -j DROP",
    ],
)
def test_what_is_not_understood_could_match_some(rule: str) -> None:
    (found,) = path_of(rule).rules
    assert (found.exact, found.source) == (False, None)
    assert found.could_match(web())
    assert not found.covers(web())


def test_a_comment_that_looks_like_a_rule_is_no_rule() -> None:
    assert drops('INPUT -m comment --comment "-j DROP" -j ACCEPT') == []
    assert drops('INPUT -m comment --comment "-i lo" -j DROP') != []


def test_nothing_behind_a_rule_that_decides_everything_is_met() -> None:
    ufw_not_local = (
        "INPUT -j ufw-not-local",
        "ufw-not-local -m addrtype --dst-type LOCAL -j RETURN",
        "ufw-not-local -j DROP",
    )
    assert drops(*ufw_not_local) == []
    assert drops("INPUT -j first", "first -j ACCEPT", "INPUT -j DROP") == []
    assert drops("INPUT -g first", "INPUT -j DROP", "first -p tcp -j DROP") == ["-A first -p tcp -j DROP"]
    assert drops("INPUT -p tcp -j first", "first -j ACCEPT", "INPUT -j DROP") == ["-A INPUT -j DROP"]


def test_conditions_that_exclude_each_other_leave_nothing() -> None:
    for outer, inner in (
        ("-p tcp", "-p udp -m udp --dport 53"),
        ("-p tcp -m tcp --dport 80", "-p tcp -m tcp --dport 81"),
        ("-i eth0", "-i eth1"),
        ("-i eth+", "-i wg+"),
        ("-s 10.0.0.0/8", "-s 192.0.2.0/24"),
    ):
        assert drops(f"INPUT {outer} -j inner", f"inner {inner} -j DROP") == [], (outer, inner)
    assert drops("INPUT -i eth+ -j inner", "inner -i eth0.100 -j DROP") != []


@pytest.mark.parametrize(
    ("rule", "fields", "expected"),
    [
        ("-p tcp -m tcp --dport 80 -j DROP", {}, True),
        ("-p tcp -m tcp --dport 81 -j DROP", {}, False),
        ("-p udp -j DROP", {}, False),
        ("-i eth+ -j DROP", {}, True),
        ("-i eth1 -j DROP", {}, False),
        ("-d 198.51.100.9/32 -j DROP", {"address": "198.51.100.1"}, False),
        ("-d 198.51.100.9/32 -j DROP", {}, True),
        ("-s 203.0.113.9/32 -j DROP", {}, True),
    ],
)
def test_a_rule_concerns_a_service_that_it_could_be_about(
    rule: str, fields: dict[str, object], expected: bool
) -> None:
    assert bool(against(web(**fields), f"INPUT {rule}")[0]) is expected


def test_a_port_that_is_open_to_everyone_loses_no_protection() -> None:
    closed = "INPUT -j REJECT --reject-with icmp-host-prohibited"
    opened = "INPUT -p tcp -m tcp --dport 80 -j ACCEPT"
    assert against(web(), opened, closed) == ([], False)
    assert against(web(), opened, policy="DROP") == ([], False)
    assert against(web(port=81), opened, closed) == ([f"-A {closed}"], False)
    assert against(web(port=81), opened, policy="DROP") == ([], True)


def test_a_port_that_is_open_to_some_loses_its_protection() -> None:
    closed = "INPUT -j DROP"
    for opened in (
        "INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 80 -j ACCEPT",
        "INPUT -p tcp -m tcp --dport 80 -m set --match-set friends src -j ACCEPT",
        "INPUT -d 198.51.100.1/32 -p tcp -m tcp --dport 80 -j ACCEPT",
    ):
        assert against(web(), opened, closed) == ([f"-A {closed}"], False), opened
        assert against(web(), opened, policy="DROP") == ([], True), opened


def test_a_ban_list_of_any_length_is_read_and_cut_short() -> None:
    bans = [f"INPUT -s 10.0.{i >> 8}.{i & 255}/32 -j DROP" for i in range(RULES_KEPT + 50)]
    path = path_of(*bans)
    assert (len(path.rules), path.left_out) == (RULES_KEPT, 50)


def test_chains_that_are_reached_on_ever_more_ways_are_read_only_so_often() -> None:
    rules = []
    for depth in range(30):
        rules += [f"c{depth} -s 10.0.0.0/8 -j c{depth + 1}", f"c{depth} -s 10.0.0.0/9 -j c{depth + 1}"]
    assert path_of("INPUT -j c0", *rules, "c30 -j DROP").left_out > 0


def test_a_machine_without_rules_drops_nothing() -> None:
    assert find_input_path(parse_save(""), flavour=Flavour.LEGACY) == InputPath(flavour="legacy")
