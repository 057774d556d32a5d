"""Fixtures of more than one file here."""

import pytest

from tests.cast import Site
from tests.documents import service_data
from tests.workflow.ticking import Worker


@pytest.fixture
def ready(site: Site) -> Site:
    """Two nodes that carry revision 1, each with a guard that is known to run."""
    site.deploy(service_data("web"))
    for name in site.kernels:
        Worker(site, name).tick(after=0)
    return site
