"""Drift: the kernel's own chains differ from what a node should carry. When ours are put back, and in words.

Putting back is a commit, and another program may undo it at once. So what comes back again and again is put
back more and more seldom: both sides stay apart instead of taking turns for ever.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

WINDOW = timedelta(hours=1)
"""What was put back longer ago than this is forgiven."""
AT_ONCE = 3
"""So many times within the window ours are put back without a wait."""
WAIT_FIRST, WAIT_MAX = timedelta(minutes=1), timedelta(minutes=15)
LINES_KEPT = 400
"""Of one difference. A flushed table of a big cluster is a hundred thousand lines, which nobody reads."""
NATIVE = "nft "
"""How a line begins that is about a rule of nft itself, in no table of iptables."""
BESIDE = "beside ours, "
"""The same of a rule in a table of iptables where none of our jumps matters."""
_RELOADS = {
    "firewalld": "it takes the rules of others out when it is reloaded or restarted",
    "Docker": "it puts its own rules first when it starts, and with each new network",
    "Calico": "it puts its own rules first again and again",
    "Kubernetes": "it brings its own rules in whenever it starts",
    "ufw": "it loads its tables anew when it is reloaded",
}


def next_moment(put_back: Sequence[datetime], *, now: datetime) -> datetime:
    """The earliest moment at which ours may be put back, after those moments at which they were."""
    recent = [moment for moment in put_back if now - moment < WINDOW]
    if len(recent) < AT_ONCE:
        return now
    doublings: int = 2 ** min(len(recent) - AT_ONCE, 10)
    wait = min(WAIT_FIRST * doublings, WAIT_MAX)
    return max(now, max(recent) + wait)


def name_culprits(programs: Sequence[str]) -> str:
    """Who probably did it, as far as that is known; a sentence."""
    known = [f"{name} ({_RELOADS[name]})" for name in programs if name in _RELOADS]
    if known:
        return f"Probably {_list(known)}."
    if programs:
        change = "changes" if len(programs) == 1 else "change"
        return f"On this node {_list(list(programs))} {change} the firewall too."
    return "No program that is known to do that was seen on this node; look for a script or a cron job."


def describe_lines(number: int) -> str:
    return f"{number} line{'' if number == 1 else 's'}"


def are_beside(lines: Sequence[str]) -> bool:
    """Whether they are about rules only that decide wherever our jumps stand."""
    return bool(lines) and all(line.startswith((NATIVE, BESIDE)) for line in lines)


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
