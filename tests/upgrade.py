"""What an earlier lbadmin did, before an upgrade."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from balancer.workflow import revisions
from tests.ruleset.earlier import compile_earlier


@contextmanager
def earlier_lbadmin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(revisions, "COMPILER", 1)
        patch.setattr(revisions, "compile_document", compile_earlier)
        yield
