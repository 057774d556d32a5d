"""A sync in another network namespace than the caller's."""

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from balancer.domain.types import Document
from balancer.kernel.base import DriverName, Flavour, Receipt, Rejected
from balancer.kernel.node import NodeKernel
from balancer.ruleset.ir import Ruleset

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def sync_inside(
    *,
    namespace: Path,
    rulesets: Sequence[Ruleset],
    document: Document,
    lock_directory: Path,
    flavour: Flavour | None = None,
    driver: DriverName | None = None,
) -> tuple[Receipt, ...]:
    """See `NodeKernel.sync`, once for each ruleset.

    `namespace` is a file such as /run/netns/NAME, never the one of PID 1.

    A thread of its own goes in and ends there: none is ever left in a namespace that it should not write to.
    """

    def sync() -> tuple[Receipt, ...]:
        _enter(namespace)
        kernel = NodeKernel(flavour=flavour, driver=driver, lock_directory=lock_directory)
        return tuple(kernel.sync(ruleset=ruleset, document=document) for ruleset in rulesets)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="elsewhere") as pool:
        return pool.submit(sync).result()


def _enter(namespace: Path) -> None:
    descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise Rejected(f"Cannot enter the network namespace {namespace}: {reason}. Nothing was changed.")
    finally:
        os.close(descriptor)
