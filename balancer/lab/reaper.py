"""`python -m balancer.lab.reaper DIRECTORY PID`: removes a lab when its owner ends, however it ends.

The owner holds the other end of standard input. End of file there, or the death of PID (a child of the
owner may have kept the pipe open), means: remove what the record names. It is also how the owner asks for it
in good order. The exit status is 0 when nothing is left; otherwise DIRECTORY/reaper.log says what is.
"""

import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

from balancer.lab.errors import LabError
from balancer.lab.record import read_record, remove_lab


def main(*, directory: Path, owner: int) -> int:
    # A Ctrl-C or a kill of the whole group must not take away the one who cleans up.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    record = read_record(directory=directory)
    if record is None:
        print(f"There is no record in {directory}.", file=sys.stderr)
        return 1
    wait_for_end(owner=owner)
    try:
        # By what was read at the start: somebody may have tidied the record away in the meantime.
        remove_lab(directory=directory, namespaces=record.namespaces)
    except LabError as error:
        with suppress(OSError):
            (directory / "reaper.log").write_text(f"{error}\n")
        return 1
    return 0


def wait_for_end(*, owner: int) -> None:
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    print("ready", flush=True)
    poll.poll()


if __name__ == "__main__":
    sys.exit(main(directory=Path(sys.argv[1]), owner=int(sys.argv[2])))
