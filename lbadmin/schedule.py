"""What beat sends: a tick for every node's queue, every few seconds. It keeps no schedule file."""

import logging
from typing import Any

from celery.beat import Scheduler
from django.db import Error, close_old_connections
from kombu.exceptions import OperationalError

from balancer.workflow.queue import NODE_TICK, node_queues

TICK_SECONDS = 5
BACKLOG_MAX = 2
"""A node whose queue holds more is absent or busy; it needs no further reminder."""

logger = logging.getLogger(__name__)


class NodeScheduler(Scheduler):
    """Nodes are rows, so the schedule is read from them at every tick."""

    def setup_schedule(self) -> None:
        self.connection = self.app.connection_for_write()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send the ticks; the seconds until the next one. Whatever fails is tried again then."""
        close_old_connections()
        try:
            for queue in node_queues():
                self._send(queue)
        except (Error, OperationalError, *self.connection.connection_errors) as error:
            logger.warning("No ticks were sent: %s", error)
            self.connection.collect()
        return TICK_SECONDS

    @property
    def info(self) -> str:
        return f"    . every {TICK_SECONDS} seconds, one tick for each node"

    def close(self) -> None:
        self.connection.release()

    def _send(self, queue: str) -> None:
        if self.connection.default_channel.count_waiting(queue) > BACKLOG_MAX:
            return
        self.app.send_task(
            NODE_TICK, queue=queue, connection=self.connection, expires=2 * TICK_SECONDS, retry=False
        )
