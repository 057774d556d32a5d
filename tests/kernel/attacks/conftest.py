"""One scene for each flavour and family, kept for the run."""

from collections.abc import Iterator
from itertools import product

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from tests.kernel.attacks.scene import Scene

CELLS = tuple(product(Flavour, Family))


@pytest.fixture(params=CELLS, ids=lambda cell: "-".join(cell), scope="session")
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    flavour, family = request.param
    built = Scene(flavour=flavour, family=family, directory=tmp_path_factory.mktemp("scene"))
    yield built
    built.close()
