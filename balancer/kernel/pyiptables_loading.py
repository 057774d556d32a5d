"""Makes python-iptables ready to import without a compiler. Used in the child only.

Its import asks ctypes for its extension module under four names. That lies beside the package and never
where a linker looks, so that ctypes runs gcc and ld for each of them, as root, at every transaction. It also
asks for distutils, which setuptools answers with a copy of its own. Both took three fourths of the import.
"""

import ctypes.util
import sys
from collections.abc import Callable
from functools import cache

_EXTENSION = "xtwrapper"


def prepare_import() -> None:
    ctypes.util.find_library = _without_extension(ctypes.util.find_library)
    # Taken for "not installed"; python-iptables then asks sysconfig, which has the answer.
    sys.modules.setdefault("distutils", None)  # type: ignore[arg-type]


def _without_extension(find: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Not found by the linker, at once; python-iptables goes on to look in `sys.path` itself."""

    @cache
    def find_library(name: str) -> str | None:
        return None if _EXTENSION in name else find(name)

    return find_library
