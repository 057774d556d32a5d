"""`python -m balancer.probes.child PARENT`: a client in a network namespace of its own. Stdlib only.

It says `ready` when it has left its parent's namespace, and waits for one line of JSON on standard input
(lines for `ip -batch`, attempts, seconds); it answers with one line and ends. It ends with its parent, too,
however that ends, and its namespace with it: nobody else has it open.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from balancer.probes.connect import Attempt, connect_all

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main(*, parent: int) -> int:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        return 1
    if _libc.unshare(_CLONE_NEWNET) != 0:
        print(f"a network namespace is refused: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 1
    print("ready", flush=True)
    line = sys.stdin.readline()
    if not line:
        return 1
    print(json.dumps(carry_out(json.loads(line))), flush=True)
    # The parent takes the links away first; what is still on its way would lose its route.
    sys.stdin.readline()
    return 0


def carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """Key of the attempts -> their tally; `error` alone where the links cannot be set up."""
    text = "".join(f"{line}\n" for line in order["setup"])
    done = subprocess.run(["ip", "-batch", "-"], input=text, capture_output=True, text=True, timeout=5)
    if done.returncode:
        return {"error": done.stderr.strip()}
    attempts = [Attempt(**attempt) for attempt in order["attempts"]]
    tallies = connect_all(attempts, seconds=order["seconds"])
    return {"tallies": {key: asdict(tally) for key, tally in tallies.items()}}


if __name__ == "__main__":
    sys.exit(main(parent=int(sys.argv[1])))
