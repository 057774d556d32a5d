"""What a document compiles to, frozen: a byte that moves here must raise `COMPILER` (ruleset/compile.py).

Approvals and revisions are bound to digests of these texts. Without another number a byte that moves would
leave every node with a live revision that no longer matches its own rules, and nobody would be told (ADR
0016). So whoever changes the compiler raises the number and takes the digest below anew. A number that was
never released may have its digest taken anew.
"""

from typing import Any

from balancer.domain.codec import digest_text, dump_document
from balancer.domain.types import Family, Scheduler
from balancer.ruleset.compile import COMPILER, compile_document
from balancer.ruleset.render import render_ruleset
from tests.documents import document

FROZEN = {3: "21ce35d634fbbe588115178bfc2c0ec65b63ae4407ad3f83c5d107f08c1c0454"}
"""Compiler -> digest of the documents here and of what they compile to."""
INTERFACES = ("eth0", "eth1", "bond0.10", "lan3", "wan")
ADDRESSES = (None, None, "192.0.2.1", "192.0.2.2", "192.0.2.77")
STATES = ("enabled", "enabled", "draining", "disabled")


def frozen_service(number: int) -> dict[str, Any]:
    """One of many different ones."""
    source_nat = (
        {"mode": "masquerade"},
        {"mode": "none", "hairpin": True},
        {"mode": "snat", "address": "192.0.2.9"},
    )
    scheduler = list(Scheduler)[number // 2 % 5]
    return {
        "name": f"s{number}",
        "enabled": number % 11 != 0,
        "interface": INTERFACES[number % 5],
        "protocol": ("tcp", "udp")[number % 2],
        "port": 1 + number * 7 % 300,
        "address": ADDRESSES[number * 3 % 5],
        "from_node": number % 13 == 5 and ADDRESSES[number * 3 % 5] is not None,
        "scheduler": scheduler,
        "persistence": {"mode": "source" if number % 7 == 3 else "none"},
        "source_nat": source_nat[number // 3 % 3],
        "access": {"drop_invalid": number % 4 != 0},
        "backends": [
            {
                "address": f"10.0.{number % 3}.{1 + place * 5}",
                "port": 80 + place,
                "weight": 1 + number * place % 5,
                "state": STATES[(number + place) % 4],
                "priority": place % 2 if scheduler == Scheduler.FAILOVER else 0,
            }
            for place in range(number % 21)
        ],
    }


def frozen_service_of_ipv6(number: int) -> dict[str, Any]:
    backends = [{"address": f"2001:db8::{place + 1:x}"} for place in range(number % 5)]
    return {**frozen_service(number), "name": f"t{number}", "address": f"2001:db8:1::{number:x}",
            "source_nat": {"mode": "masquerade"}, "from_node": False, "backends": backends}  # fmt: skip


def test_a_change_of_the_bytes_raises_the_number_of_the_compiler() -> None:
    texts = []
    for count in (0, 1, 4, 20, 120):
        services = [
            make(number) for number in range(count) for make in (frozen_service, frozen_service_of_ipv6)
        ]
        one = document(*services)
        texts += [dump_document(one), *(render_ruleset(compile_document(one, family=f)) for f in Family)]
    assert {COMPILER: digest_text("".join(texts))} == FROZEN
