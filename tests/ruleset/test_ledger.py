"""What a document costs, in rules and in steps. A change to the compiler shows here."""

from collections.abc import Mapping

import pytest

from balancer.domain.types import Document, Service
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, TableName
from balancer.ruleset.names import service_chain
from balancer.ruleset.trace import trace_service
from tests.documents import Data, backend_data, document, service_data
from tests.ruleset.walks import longest_walk


def backends_of(count: int) -> list[Data]:
    return [backend_data(f"10.{i // 62500}.{i // 250 % 250}.{i % 250 + 1}") for i in range(count)]


LEDGER = [
    # services, backends each, scheduler, rules in both tables, nat rules that the unluckiest connection tries
    (1, 0, "round-robin", 12, 3),
    (1, 1, "round-robin", 12, 3),
    (1, 2, "round-robin", 13, 4),
    (1, 10, "round-robin", 26, 9),
    (1, 1000, "round-robin", 1635, 23),
    (1, 1000, "random", 1347, 21),
    (10, 2, "round-robin", 68, 11),
    (10, 10, "random", 178, 15),
    (1000, 2, "round-robin", 5678, 23),
]


@pytest.mark.parametrize(("services", "backends", "scheduler", "rules", "walk"), LEDGER)
def test_the_price_of_a_document_is_written_down(
    services: int, backends: int, scheduler: str, rules: int, walk: int
) -> None:
    one = document(
        *(
            service_data(f"s{i}", port=1000 + i, backends=backends_of(backends), scheduler=scheduler)
            for i in range(services)
        )
    )
    count = sum(len(chain) for table in compile_document(one).tables for chain in table.chains.values())
    nat = compile_document(one).table(TableName.NAT).chains
    assert (count, max(nat_walk(one, service, nat) for service in one.services[:: services // 10 or 1])) == (
        rules,
        walk,
    )


def nat_walk(one: Document, service: Service, nat: Mapping[str, tuple[Rule, ...]]) -> int:
    chain = service_chain(service.name)
    steps = [step for step in trace_service(one, service).steps if step.table is TableName.NAT]
    on_the_way = [step for step in steps if step.chain.startswith(("LB-PREROUTING", "LB-D-", "LB-I-"))]
    return len(on_the_way) + longest_walk(nat, chain)
