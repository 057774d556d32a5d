"""Who is at work on a job: a process of this machine, told apart from all that had its number."""

from pathlib import Path

_PROC = Path("/proc")
_ZOMBIE_STATES = {"Z", "X"}


def own_identity() -> str:
    """`boot id:process id:start time` of the calling process."""
    stat = _read_stat("self")
    assert stat is not None
    process_id, _, started = stat
    return f"{_boot_id()}:{process_id}:{started}"


def is_alive(identity: str) -> bool:
    """Whether that process still runs here. One of another boot or machine does not."""
    boot_id, _, rest = identity.partition(":")
    process_id, _, started = rest.partition(":")
    if boot_id != _boot_id() or not process_id.isdigit():
        return False
    stat = _read_stat(process_id)
    return stat is not None and stat[1] not in _ZOMBIE_STATES and stat[2] == started


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _read_stat(process: str) -> tuple[str, str, str] | None:
    """(process id, state, start time in ticks since boot): fields 1, 3 and 22 of proc(5) stat."""
    try:
        text = (_PROC / process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Field 2 is the command in parentheses and may hold anything, parentheses too.
    before, _, after = text.rpartition(")")
    fields = after.split()
    return before.split(" ", 1)[0], fields[0], fields[19]
