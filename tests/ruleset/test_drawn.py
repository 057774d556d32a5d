"""The arbitrary documents of these tests use all that a document can say to a node."""

from dataclasses import fields
from typing import Any

from hypothesis import Phase, given, settings

from balancer.domain.types import Access, Backend, Document, Persistence, Service, SourceNat
from tests.documents import any_carried

NOT_FOR_RULES = {"description", "critical", "health"}
"""Keys of a service that change no rule: what checks find is laid over (`Backend.up`)."""
NEVER = {f"Service.{key}" for key in NOT_FOR_RULES - {"health"}}
ROUNDS = 30
"""Of 40 documents each, at most: what is rare is drawn in one of them or another."""
PARTS = (Service, Persistence, SourceNat, Access, Backend)


def test_every_key_that_changes_rules_is_drawn_with_more_than_one_value() -> None:
    """Whoever adds a key adds it to tests/documents.py, or no law and no packet ever meets it."""
    drawn: dict[str, set[Any]] = {}

    def note(part: Any) -> None:
        for field in fields(part):
            drawn.setdefault(f"{type(part).__name__}.{field.name}", set()).add(
                repr(getattr(part, field.name))
            )

    @given(any_carried())
    @settings(max_examples=40, derandomize=False, database=None, deadline=None, phases=(Phase.generate,))
    def draw(one: Document) -> None:
        for service in one.services:
            for part in (service, service.persistence, service.source_nat, service.access, *service.backends):
                note(part)

    wanted = {f"{kind.__name__}.{field.name}" for kind in PARTS for field in fields(kind)}
    never = wanted
    for _ in range(ROUNDS):
        draw()
        never = {key for key in wanted if len(drawn.get(key, ())) < 2}
        if never == NEVER:
            break
    assert never == NEVER
