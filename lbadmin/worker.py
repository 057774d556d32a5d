"""The worker of one node: `LBADMIN_NODE=lb1 python -m lbadmin.worker`.

One door, so that no worker runs with another queue, another pool or more processes than one.
"""

import gc
import sys
import warnings
from typing import Any

from celery import signals
from celery.platforms import SecurityWarning
from django.conf import settings

from lbadmin.celery import app


def main() -> int:
    """Runs until it is told to stop; 2 where it cannot begin."""
    node = settings.LBADMIN_NODE
    if not node:
        print("Set LBADMIN_NODE to the name of the node whose worker this is.", file=sys.stderr)
        return 2
    # It writes the kernel's tables, so it runs as root; Celery's reason against that is pickle, which is off.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.celeryd_after_setup.connect(keep_loaded)
    app.worker_main(worker_arguments(node=node))
    return 0


def keep_loaded(**_: Any) -> None:
    """Tasks and all are loaded now; also the child that runs them shares it."""
    gc.freeze()


def worker_arguments(*, node: str) -> list[str]:
    return [
        *("--quiet", "worker"),
        *("--hostname", f"{node}@lbadmin"),
        *("--queues", f"node.{node}"),
        *("--pool", "prefork"),
        *("--concurrency", "1"),
        *("--loglevel", "INFO"),
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]


if __name__ == "__main__":
    sys.exit(main())
