"""How long audit_verify takes: `script/bench audit [EVENTS]`.

In a database of its own: SQLite in a temporary directory, or the empty one that DATABASE_URL names. Events
are as big as those of a deployment. The figures are this machine's.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median

ROUNDS = 3
FACTS = {
    "node": "lb1",
    "revision": 12,
    "reason": "deploy",
    "error": "",
    "changed": True,
    "steps": ["Checked: approved, unchanged, and it compiles to the same ruleset."] * 3,
}


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="lbadmin-bench-") as directory:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "lbadmin.settings",
            "LBADMIN_STATE_DIR": directory,
            "LBADMIN_SYSLOG": f"{directory}/no-syslog",
        }
        import django

        django.setup()
        run(count)


def run(count: int) -> None:
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    print(f"{count} audit events on {connection.vendor}")
    together = timed(lambda: record_events(count))
    print(f"  recorded in one transaction   {together:8.2f} s   {together / count * 1000:6.2f} ms an event")
    taken = median(timed(verify) for _ in range(ROUNDS))
    print(f"  verified, median of {ROUNDS}         {taken:8.2f} s   {count / taken:6,.0f} events/s")


def timed(deed: Callable[[], None]) -> float:
    started = time.perf_counter()
    deed()
    return time.perf_counter() - started


def record_events(count: int) -> None:
    from balancer.workflow import audit

    with audit.writing():
        for _ in range(count):
            audit.record(actor=None, action=audit.Action.JOB_SUCCEEDED, facts=FACTS)


def verify() -> None:
    from balancer.workflow.history import verify_history

    verdict = verify_history()
    if verdict.fault is not None:
        raise RuntimeError(verdict.fault.message)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
