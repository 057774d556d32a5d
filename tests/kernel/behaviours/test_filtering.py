"""Who is let in, and what is no beginning of a connection."""

import re
import select
import time
from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from balancer.domain.types import Family, Protocol
from balancer.kernel.base import Flavour
from balancer.ruleset.access import LOGGED as LOG_LIMIT
from balancer.ruleset.ir import TableName
from balancer.ruleset.reasons import Reason, reasons_of
from tests.kernel.behaviours.lab import Flow, Lab, by_backend, wait_for
from tests.kernel.behaviours.malformed import malformed_tcp, malformed_udp
from tests.kernel.behaviours.packets import Seen
from tests.kernel.behaviours.services import (
    ALLOW,
    ALLOWED,
    BY_BACKEND,
    BY_SOURCE,
    DENIED,
    DENY,
    LENIENT,
    LOGGED,
    PER_BACKEND,
    PER_SOURCE,
    RATE,
    STRICT,
    TALK,
    services,
)
from tests.kernel.machine import run
from tests.stopwatch import Stopwatch

UDP, TCP = Protocol.UDP, Protocol.TCP
IN_THE_MIDDLE = {"flags ACK", "flags PSH+ACK", "flags ACK+URG", "flags PSH+ACK+URG"}
"""What a connection's client sends where the node knows of none: it is reset."""


def passed(seen: Iterable[Seen | None]) -> list[bool]:
    """Whether each flow reached a backend; the others were dropped without a word."""
    seen = list(seen)
    assert all(one is None or not one.refusal for one in seen)
    return [one is not None for one in seen]


def counted(lab: Lab, service: str) -> dict[Reason, int]:
    """Refusals by reason, as the rules have counted them."""
    found: dict[Reason, int] = {}
    tool = "iptables" if lab.family is Family.IPV4 else "ip6tables"
    rules: dict[tuple[str, str], list[int]] = {}
    for table in TableName:
        with lab.inside_node():
            text = run(f"{tool}-{lab.flavour}-save", "-c", "-t", table)
        for packets, chain in re.findall(r"^\[(\d+):\d+\] -A (\S+)", text, re.MULTILINE):
            rules.setdefault((table, chain), []).append(int(packets))
    for (table, chain, index), (name, reason) in reasons_of(lab.ruleset, [service]).items():
        if name == service:
            found[reason] = found.get(reason, 0) + rules[table, chain][index]
    return found


def test_clients_on_the_deny_list_are_dropped_and_all_others_let_in(lab: Lab) -> None:
    denied = [lab.source(number, network=DENIED) for number in (0, 77, 249)]
    single = lab.source(3, network=DENIED + 1)
    others = [lab.source(4, network=DENIED + 1), lab.source(0, network=DENIED - 1), *lab.sources(3)]
    for protocol, name in ((UDP, "deny"), (TCP, "deny-tcp")):
        before = counted(lab, name)[Reason.DENIED]
        assert passed(lab.open(protocol, DENY, [*denied, single])) == [False] * 4
        assert counted(lab, name)[Reason.DENIED] - before == 4
        assert all(passed(lab.open(protocol, DENY, others)))


def test_with_an_allow_list_everybody_else_is_dropped_and_deny_wins(lab: Lab) -> None:
    allowed = [lab.source(number, network=ALLOWED) for number in (0, 4, 6, 249)]
    assert all(passed(lab.open(UDP, ALLOW, allowed)))
    both = lab.source(5, network=ALLOWED)
    assert passed(lab.open(UDP, ALLOW, [both, *lab.sources(3)])) == [False] * 4
    assert {Reason.DENIED: 1, Reason.NOT_ALLOWED: 3}.items() <= counted(lab, "allow").items()


def test_what_the_node_itself_sends_is_asked_as_well(lab: Lab) -> None:
    lab.carry(*services(lab, deny={"access": {"deny": [lab.own(1)]}}))
    flow = {"protocol": UDP, "destination": ip_address(lab.own(1)), "port": DENY, "interface": None}
    assert passed(lab.send([Flow(source=ip_address(lab.own(1)), **flow)])) == [False]


def test_established_connections_of_a_client_live_on_when_it_is_denied(lab: Lab) -> None:
    server = lab.listen(lab.live(1), TALK)
    alone = {"backends": [{"address": lab.live(1)}]}
    lab.carry(*services(lab, talk=alone))
    client = lab.connect(lab.own(), TALK)
    accepted = lab.keep(server.accept()[0])
    lab.carry(*services(lab, talk=alone | {"access": {"deny": [str(lab.source(200))]}}))
    client.sendall(b"still here")
    assert accepted.recv(20) == b"still here"
    assert passed(lab.open(TCP, TALK, [lab.source(200)])) == [False]


def test_a_source_may_begin_a_burst_and_then_so_many_connections_a_second(lab: Lab) -> None:
    (greedy, other) = lab.strangers(2)
    started = time.monotonic()
    first = sum(passed(lab.open(UDP, RATE, [greedy] * 20)))
    assert 5 <= first <= 6 + (time.monotonic() - started)
    assert all(passed(lab.open(UDP, RATE, [other] * 5))), "sources are counted apart"
    if lab.family is Family.IPV6:
        assert sum(passed(lab.open(UDP, RATE, [greedy + 1] * 5))) <= 1 + time.monotonic() - started
    time.sleep(1.1)
    again = sum(passed(lab.open(UDP, RATE, [greedy] * 10)))
    assert 1 <= again <= 1 + (time.monotonic() - started)
    assert counted(lab, "rate")[Reason.RATE] >= 30 - first - again


def test_what_a_source_has_begun_and_what_was_refused_counts_across_applies(lab: Lab) -> None:
    (greedy,) = lab.strangers(1)
    begun = sum(passed(lab.open(UDP, RATE, [greedy] * 10)))
    started, refused = time.monotonic(), counted(lab, "rate")
    assert refused[Reason.RATE] >= 10 - begun
    receipt = lab.carry(*services(lab, rate={"scheduler": "random"}, any={"scheduler": "random"}))
    assert receipt is not None
    assert "nat LB-S-rate" in receipt.chains_written
    assert counted(lab, "rate") == refused
    assert sum(passed(lab.open(UDP, RATE, [greedy] * 10))) <= 1 + (time.monotonic() - started)


def test_a_source_has_so_many_connections_at_once_and_applies_do_not_forget_them(lab: Lab) -> None:
    lab.forget_connections()
    first, second = lab.strangers(2)
    assert passed(lab.open(UDP, BY_SOURCE, [first] * 5)) == [True] * PER_SOURCE + [False] * 2
    assert all(passed(lab.open(UDP, BY_SOURCE, [second] * PER_SOURCE)))
    lab.carry(*services(lab, by_source={"scheduler": "random"}, draining={"enabled": False}))
    assert passed(lab.open(UDP, BY_SOURCE, [first])) == [False]
    lab.forget_connections()
    assert wait_for(lambda: passed(lab.open(UDP, BY_SOURCE, [first])) == [True])


def test_packets_of_one_flow_count_as_one_connection_however_fast_they_come(lab: Lab) -> None:
    lab.forget_connections()
    (client,) = lab.strangers(1)
    flow = Flow(protocol=UDP, source=client, destination=ip_address(lab.own()), port=BY_SOURCE)
    (one,) = lab.send([flow])
    assert one is not None
    assert lab.go_on(one.number, flow, times=2 * PER_SOURCE) is not None
    assert passed(lab.open(UDP, BY_SOURCE, [client] * PER_SOURCE)) == [True] * (PER_SOURCE - 1) + [False]


def test_a_backend_has_so_many_connections_at_once(lab: Lab) -> None:
    lab.forget_connections()
    seen = lab.open(UDP, BY_BACKEND, lab.strangers(10))
    assert by_backend(one for one in seen if one) == {lab.sink(n): PER_BACKEND for n in (1, 2)}
    assert counted(lab, "by-backend")[Reason.BACKEND_FULL] >= 6
    lab.forget_connections()
    assert wait_for(lambda: passed(lab.open(UDP, BY_BACKEND, lab.strangers(1))) == [True])


def test_what_a_commit_does_to_the_count_of_connections(lab: Lab) -> None:
    """As the guide says: only iptables-legacy forgets it for the change of another service."""
    lab.forget_connections()
    (client,) = lab.strangers(1)
    assert sum(passed(lab.open(UDP, BY_SOURCE, [client] * 5))) == PER_SOURCE
    lab.carry(*services(lab, by_backend={"access": {"connections_per_backend": 9}}))
    kept = 0 if lab.flavour is Flavour.NFT else PER_SOURCE
    assert sum(passed(lab.open(UDP, BY_SOURCE, [client] * 5))) == kept
    lab.carry(*services(lab, by_source={"access": {"connections_per_source": PER_SOURCE + 1}}))
    assert sum(passed(lab.open(UDP, BY_SOURCE, [client] * 6))) == PER_SOURCE + 1


def test_packets_that_are_malformed_or_begin_no_connection_reach_nobody(lab: Lab) -> None:
    (client,) = lab.strangers(1)
    kinds = malformed_tcp(client, ip_address(lab.own()), STRICT)
    kinds |= malformed_udp(client, ip_address(lab.own()), STRICT)
    assert len(kinds) >= 75
    before = counted(lab, "strict")
    for name, packets in kinds.items():
        inside, back = lab.send_raw(packets)
        assert (inside, len(back)) == ([], 1 if name in IN_THE_MIDDLE else 0), name
    after = counted(lab, "strict")
    assert all(after[reason] > before[reason] for reason in (Reason.INVALID, Reason.NOT_SYN))
    assert all(passed(lab.open(TCP, STRICT, [client])))


def test_a_client_whose_connection_the_node_no_longer_knows_is_reset_at_once_and_connects_again(
    lab: Lab,
) -> None:
    """As after a restart of the node, or when its connection was cut."""
    server = lab.listen(lab.live(1), TALK)
    lab.carry(*services(lab, talk={"backends": [{"address": lab.live(1)}]}))
    client = lab.connect(lab.own(), TALK)
    accepted = lab.keep(server.accept()[0])
    before = counted(lab, "talk")[Reason.NOT_SYN]
    lab.forget_connections()
    client.sendall(b"still there?")
    watch = Stopwatch()
    with pytest.raises(ConnectionResetError):
        client.recv(20)
    assert watch.own < 1
    assert counted(lab, "talk")[Reason.NOT_SYN] == before + 1
    assert not select.select([accepted], [], [], 0)[0], "the backend hears nothing of it"
    lab.connect(lab.own(), TALK).sendall(b"again")
    assert lab.keep(server.accept()[0]).recv(20) == b"again"


def test_a_reset_is_one_for_each_and_no_longer_than_what_it_answers_so_that_nobody_gets_more_than_was_sent(
    lab: Lab,
) -> None:
    """The sources may be forged: whoever they belong to gets the resets."""
    asked = [
        malformed_tcp(source, ip_address(lab.own()), STRICT)[f"flags {flags}"][0]
        for source in lab.strangers(25)
        for flags in ("ACK", "PSH+ACK", "RST", "RST+ACK", "SYN+ACK")
    ]
    inside, back = lab.send_raw(asked)
    assert inside == []
    assert len(back) == 50
    assert max(map(len, back)) <= min(map(len, asked))


def test_nothing_is_reset_that_goes_to_an_address_of_somebody_else(lab: Lab) -> None:
    """Though a service for any address of the node has its port: the node just forwards it."""
    (client,) = lab.strangers(1)
    asked = malformed_tcp(client, ip_address(lab.sink(1)), STRICT)["flags ACK"]
    inside, back = lab.send_raw(asked)
    assert (len(inside), back) == (1, [])


def test_whom_a_list_keeps_out_is_not_told_by_a_reset_either(lab: Lab) -> None:
    for source, reset in ((lab.source(0, network=DENIED), 0), (lab.sources(1)[0], 1)):
        packets = malformed_tcp(source, ip_address(lab.own()), DENY)["flags ACK"]
        inside, back = lab.send_raw(packets)
        assert (inside, len(back)) == ([], reset)


def test_who_turns_that_off_has_connections_picked_up_in_the_middle(lab: Lab) -> None:
    (client,) = lab.strangers(1)
    kinds = malformed_tcp(client, ip_address(lab.own()), LENIENT)
    inside, _ = lab.send_raw(kinds["flags ACK"])
    assert len(inside) == 1


def test_refusals_are_logged_with_the_name_of_the_service_and_not_too_often(lab: Lab) -> None:
    before = counted(lab, "logged")[Reason.DENIED]
    denied = [lab.source(number, network=DENIED) for number in range(100)]
    watch = Stopwatch()
    assert passed(lab.open(UDP, LOGGED, denied)) == [False] * 100
    assert counted(lab, "logged")[Reason.DENIED] - before == 100
    listed = lab.iptables("-t", "nat", "-v", "-x", "-n", "-L", "LB-A-logged:denied")
    (lines,) = re.findall(r"^ *(\d+) .*LOG .*prefix \"LB logged denied: \"$", listed, re.MULTILINE)
    assert LOG_LIMIT.burst <= int(lines) <= 2 * LOG_LIMIT.burst + LOG_LIMIT.per_second * watch.seconds


def test_lists_that_somebody_changed_are_found_and_put_right(lab: Lab) -> None:
    lists = sorted(lab.ruleset.lists)
    deeds = {
        lists[0]: ["add", lists[0], str(lab.source(9, network=990))],
        lists[1]: ["del", lists[1], str(lab.ruleset.lists[lists[1]][0])],
        lists[2]: ["flush", lists[2]],
    }
    with lab.inside_node():
        for words in deeds.values():
            run("ipset", *words)
    found = lab.compare().lines
    assert {name for name in lists for line in found if name in line} == set(deeds)
    lab.carry_document(lab.document)
    assert lab.compare().in_sync
