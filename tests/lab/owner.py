"""`python -m tests.lab.owner PREFIX RECORDS [MODE]`: owns a lab until it is killed. Run by the tests.

MODE `fork`: a child keeps every file of the owner open. MODE `process`: something lives inside lb1.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from balancer.lab.topology import Lab


def main(*, prefix: str, records: Path, mode: str) -> None:
    with Lab(prefix=prefix, records=records) as lab:
        if mode == "process":
            inside = subprocess.Popen(
                lab.command(machine="lb1", command=["sh", "-c", "echo inside; exec sleep 600"]),
                start_new_session=True,
                stdout=subprocess.PIPE,
            )
            assert inside.stdout is not None
            inside.stdout.readline()
        child = os.fork() if mode == "fork" else None
        if child != 0:
            print(child or 0, flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(prefix=sys.argv[1], records=Path(sys.argv[2]), mode=sys.argv[3])
