from collections.abc import Iterator

import pytest

from tests.scenarios.demo_runs import Place, new_place


@pytest.fixture
def place() -> Iterator[Place]:
    with new_place() as made:
        yield made
