"""Documents from before the ways of balancing came compile to the very bytes that they compiled to then.

Approvals and revisions are bound to digests of these texts: a byte that moves would leave every node with a
revision that no longer matches its own rules. The digest was taken with the tree before (commit 9e3c2e6).
"""

from typing import Any

from balancer.domain.codec import digest_text, dump_document
from balancer.ruleset.compile import compile_document
from balancer.ruleset.render import render_ruleset
from tests.documents import document

INTERFACES = ("eth0", "eth1", "bond0.10", "lan3", "wan")
ADDRESSES = (None, None, "192.0.2.1", "192.0.2.2", "192.0.2.77")
STATES = ("enabled", "enabled", "draining", "disabled")


def older_service(number: int) -> dict[str, Any]:
    """One of many different ones, with the keys and values that there were."""
    return {
        "name": f"s{number}",
        "enabled": number % 11 != 0,
        "interface": INTERFACES[number % 5],
        "protocol": ("tcp", "udp")[number % 2],
        "port": 1 + number * 7 % 300,
        "address": ADDRESSES[number * 3 % 5],
        "scheduler": ("round-robin", "random")[number // 2 % 2],
        "source_nat": {"mode": ("masquerade", "none")[number // 3 % 2]},
        "access": {"drop_invalid": number % 4 != 0},
        "backends": [
            {
                "address": f"10.0.{number % 3}.{1 + place * 5}",
                "port": 80 + place,
                "weight": 1 + number * place % 5,
                "state": STATES[(number + place) % 4],
            }
            for place in range(number % 21)
        ],
    }


def test_older_documents_keep_their_bytes() -> None:
    texts = []
    for count in (0, 1, 4, 20, 120):
        one = document(*(older_service(number) for number in range(count)))
        texts += [dump_document(one), render_ruleset(compile_document(one))]
    assert digest_text("".join(texts)) == "603e1996a94ad477a56237f1ecc9cc16f7bb6c55b005a529b66f55ff999d53d4"
