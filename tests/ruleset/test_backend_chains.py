"""Each backend of a service has a chain, which nothing but the backend itself changes: it counts."""

import pytest

from balancer.domain.types import Document, Scheduler
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Rule, TableName
from balancer.ruleset.render import render_rule
from tests.documents import Data, backend_data, document, service_data

FIRST = backend_data("10.0.0.3", port=80)
OTHERS = [backend_data("10.0.0.4", port=80), backend_data("10.0.0.5", port=80)]
KEEPING = {"mode": "source"}


def chain_of(one: Document, name: str = "LB-S-web:10.0.0.3-80") -> tuple[Rule, ...]:
    return compile_document(one).table(TableName.NAT).chains[name]


def web(first: Data = FIRST, **fields: object) -> Document:
    return document(service_data(**{"backends": [first, *OTHERS], **fields}))


def test_it_holds_the_translation_and_with_persistence_the_memory() -> None:
    (translate,) = chain_of(web())
    assert render_rule(translate) == "-p tcp -j DNAT --to-destination 10.0.0.3:80"
    remember, *rest = chain_of(web(persistence=KEEPING))
    assert render_rule(remember).startswith("-j SET --add-set LB-4.32-web:10.0.0.3-80 src")
    assert rest == [translate]


@pytest.mark.parametrize("persistence", [{}, KEEPING])
@pytest.mark.parametrize("scheduler", Scheduler)
def test_weights_others_scheduler_and_state_leave_it_as_it_is(scheduler: str, persistence: Data) -> None:
    before = chain_of(web(persistence=persistence))
    for later in (
        web(scheduler=scheduler, persistence=persistence),
        web({**FIRST, "weight": 7}, scheduler=scheduler, persistence=persistence),
        web({**FIRST, "state": "draining"}, scheduler=scheduler, persistence=persistence),
        web(scheduler=scheduler, persistence=persistence, backends=[FIRST]),
        web(scheduler=scheduler, persistence=persistence, backends=[FIRST, backend_data("10.0.0.99")]),
        web(scheduler=scheduler, persistence=persistence, interface="eth7", address="203.0.113.9"),
    ):
        assert chain_of(later) == before


def test_a_disabled_backend_keeps_its_chain_but_remembers_nobody() -> None:
    disabled = {**FIRST, "state": "disabled"}
    assert chain_of(web(disabled)) == chain_of(web())
    assert chain_of(web(disabled, persistence=KEEPING)) == chain_of(web())


def test_nothing_leads_to_a_backend_that_gets_no_connections() -> None:
    for state in ("draining", "disabled"):
        chains = compile_document(web({**FIRST, "state": state})).table(TableName.NAT).chains
        led_to = {getattr(rule.target, "chain", None) for rules in chains.values() for rule in rules}
        assert "LB-S-web:10.0.0.3-80" not in led_to
        assert {"LB-S-web:10.0.0.4-80", "LB-S-web:10.0.0.5-80"} < led_to
