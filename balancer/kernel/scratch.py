"""A network namespace to try things in, for a process that ends afterwards."""

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


@contextmanager
def in_scratch_namespace(purpose: str) -> Iterator[None]:
    """This process stands in a namespace of its own, and never leaves it. Raises OSError without one."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Without CAP_SYS_ADMIN a user namespace of one's own still gives the right to a network namespace.
    if libc.unshare(CLONE_NEWNET) != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(f"no scratch network namespace for {purpose}: {os.strerror(ctypes.get_errno())}")
    with tempfile.TemporaryDirectory(prefix="lbadmin-scratch-") as directory:
        # The lock belongs to a machine's tables; a scratch namespace must not hold up the machine.
        os.environ["XTABLES_LOCKFILE"] = str(Path(directory) / "xtables.lock")
        yield
