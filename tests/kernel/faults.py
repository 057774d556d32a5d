"""Faults of python-iptables, for a machine on which it has none: code to run at the start of its process."""

from collections.abc import Callable, Sequence
from pathlib import Path

Spoil = Callable[[str], None]

IMPORT_FAILS = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "iptc":
            raise ValueError("iptc was imported")
sys.meta_path.insert(0, Finder())
"""

OPTION_NOT_FOUND = """
from iptc.xtables import xtables
look = xtables._option_lookup
def look_again(self, entries, name):
    return None if name == b"probability" else look(self, entries, name)
xtables._option_lookup = look_again
"""


def option_lost(lost: str) -> str:
    """Setting the parameter `lost` of a match does nothing."""
    return f"""
import iptc
set_parameter = iptc.Match.set_parameter
def set_most_parameters(self, name, value=None):
    if name != {lost!r}:
        set_parameter(self, name, value)
iptc.Match.set_parameter = set_most_parameters
"""


def before_commit(statement: str) -> str:
    """Runs a statement before each commit; `table` is the name of the table that is committed."""
    return f"""
import os, subprocess
from iptc import ip4tc
original = ip4tc.iptc.iptc_commit
def commit(handle):
    table = next(name for name, table in ip4tc.Table._cache.items() if table._handle is handle)
    {statement}
    return original(handle)
ip4tc.iptc.iptc_commit = staticmethod(commit)
"""


def run_once(command: Sequence[str], *, marker: Path) -> str:
    """A statement that runs a command, but only where `marker` is not there yet."""
    name = str(marker)
    return f"os.path.exists({name!r}) or (open({name!r}, 'w'), subprocess.run({list(command)!r}, check=True))"
