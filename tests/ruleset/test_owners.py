"""Which service a rule is there for."""

import pytest

from balancer.ruleset.compile import compile_document
from balancer.ruleset.owners import owners_of_rules
from balancer.ruleset.render import render_ruleset
from tests.documents import backend_data, document, service_data

LONG = "a-name-that-is-longer-than-a-chain-may-be"


def owned(*services: dict[str, object]) -> dict[str, str | None]:
    """Rule -> owner, of the ruleset of these services."""
    one = document(*services)
    text = render_ruleset(compile_document(one))
    return dict(zip(text.splitlines(), owners_of_rules(text, services=one.services), strict=True))


def test_the_rules_that_choose_a_backend_belong_to_their_service() -> None:
    rules = owned(service_data("web"), service_data("mail", port=25))

    assert {owner for rule, owner in rules.items() if "DNAT --to-destination" in rule} == {"web", "mail"}
    assert all(owner == "web" for rule, owner in rules.items() if rule.startswith("-A LB-S-web"))


def test_the_rule_that_leads_to_a_service_belongs_to_it_too() -> None:
    (rule,) = (r for r in owned(service_data("web")) if r.endswith("-g LB-S-web"))

    assert owned(service_data("web"))[rule] == "web"


def test_what_serves_all_of_them_belongs_to_none() -> None:
    rules = owned(service_data("web"), service_data("mail", port=25))

    assert rules["COMMIT"] is None
    assert all(owner is None for rule, owner in rules.items() if "MASQUERADE" in rule)


@pytest.mark.parametrize("name", ["web", LONG])
def test_a_tree_of_many_backends_belongs_to_its_service_whatever_its_chains_are_called(name: str) -> None:
    many = [backend_data(f"10.1.0.{i}") for i in range(1, 60)]
    rules = owned(service_data(name, backends=many), service_data("other", port=81))

    trees = {rule: owner for rule, owner in rules.items() if rule.startswith("-A LB-T-")}
    assert len(trees) > 50
    assert set(trees.values()) == {name}


@pytest.mark.parametrize("name", ["web", LONG])
@pytest.mark.parametrize("state", ["enabled", "draining", "disabled"])
def test_the_chain_of_a_backend_belongs_to_its_service_though_nothing_leads_there(
    name: str, state: str
) -> None:
    backends = [backend_data("10.1.0.1"), backend_data("10.1.0.2", state=state)]
    rules = owned(service_data(name, backends=backends), service_data("other", port=81))

    assert {owner for rule, owner in rules.items() if "10.1.0.2:" in rule} == {name}
