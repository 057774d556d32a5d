"""nft leads a packet through so many chains and no more; a node says so by name beforehand."""

from pathlib import Path

import pytest

from balancer.domain.types import Document
from balancer.factories import rehearsal_loader
from balancer.kernel import node
from balancer.kernel.base import Flavour, Rejected
from balancer.kernel.depth import NFT_CHAINS_MAX
from balancer.kernel.node import NodeKernel
from balancer.ruleset.compile import compile_document
from balancer.ruleset.depth import deepest_way
from tests.documents import row_of_stand_ins
from tests.kernel.machine import Namespace, save
from tests.ruleset.test_depth import down

pytestmark = pytest.mark.kernel


def deep(chains: int) -> Document:
    """A document that leads through just so many chains once all are down."""
    rows = (row_of_stand_ins(count) for count in range(2, 30))
    return next(row for row in rows if len(deepest_way(compile_document(down(row)))) == chains)


def carry(kernel: NodeKernel, found: Document) -> tuple[str, ...]:
    return kernel.sync(ruleset=compile_document(found), document=found).warnings


def test_what_nft_cannot_carry_is_refused_by_name_and_legacy_carries_it(
    namespace: Namespace, flavour: Flavour, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, right, wrong = NodeKernel(flavour=flavour), deep(NFT_CHAINS_MAX), deep(NFT_CHAINS_MAX + 1)
    assert carry(kernel, down(right)) == ()
    if flavour is Flavour.LEGACY:
        assert carry(kernel, down(wrong)) == ()
        return
    before = save(flavour)
    with pytest.raises(Rejected, match=r"cannot carry s0000, s0001, .* 17 chains .* takes 16. Let fewer"):
        carry(kernel, down(wrong))
    assert save(flavour) == before
    (warning,) = carry(kernel, wrong)
    assert warning.startswith("If all backends of s0000, s0001, ")
    monkeypatch.setattr(node, "look_at_depth", lambda *args, **kwargs: ())
    with pytest.raises(Rejected, match="Too many links"):
        carry(kernel, down(wrong))


def test_a_rehearsal_refuses_what_could_not_be_carried_once_backends_are_down(
    namespace: Namespace, tmp_path: Path
) -> None:
    found, place = deep(NFT_CHAINS_MAX + 1), Path(f"/proc/self/fd/{namespace.descriptor}")
    loaded = rehearsal_loader(flavour=Flavour.NFT)(place, tmp_path, (compile_document(found),), found)
    assert loaded.error is not None
    assert loaded.error.startswith("If all backends of s0000, s0001, ")
    assert "Let fewer services stand in for one another" in loaded.error
