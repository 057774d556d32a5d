"""One lab for each flavour and family, made when a test first asks for it and kept for the run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from tests.kernel.behaviours.lab import Lab
from tests.kernel.behaviours.services import services
from tests.kernel.behaviours.table import cells_of, name_cell

Cell = tuple[Flavour, Family]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize("cell", cells_of(metafunc.function), ids=name_cell)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and "cell" in getattr(item, "fixturenames", ()):
            item.add_marker("kernel")


@pytest.fixture(scope="session")
def labs() -> Iterator[dict[Cell, Lab]]:
    found: dict[Cell, Lab] = {}
    yield found
    for lab in found.values():
        lab.close()


@pytest.fixture
def bare_lab(cell: Cell, labs: dict[Cell, Lab], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose node carries whatever the test before left."""
    if cell not in labs:
        labs[cell] = Lab(flavour=cell[0], family=cell[1], directory=tmp_path_factory.mktemp("lab"))
    yield labs[cell]
    labs[cell].hang_up()


@pytest.fixture
def lab(bare_lab: Lab) -> Lab:
    """A lab whose node carries all services of the behaviours."""
    bare_lab.carry(*services(bare_lab))
    return bare_lab
