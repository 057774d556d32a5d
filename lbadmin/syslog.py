"""Heads of the audit chain go to syslog: a place that whoever owns the database does not own with it."""

import logging
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from logging.handlers import SysLogHandler
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Warning

from balancer.domain.heads import TAG

PATIENCE = 0.2
"""Seconds that a deed waits for a syslogd whose queue is full. The next head covers one that is lost."""


class HeadHandler(SysLogHandler):
    """Sends to a unix datagram socket; connects again when that has become another one.

    A head that cannot be sent is lost, and nothing else happens: the event itself is in the database. While
    syslogd takes none, only the first one waits for it.
    """

    _patience = PATIENCE
    _failing = False

    def __init__(self, address: str) -> None:
        super().__init__(address=address, facility=SysLogHandler.LOG_AUTHPRIV, socktype=socket.SOCK_DGRAM)
        self.ident = f"{TAG}: "

    def emit(self, record: logging.LogRecord) -> None:
        self._patience = 0.0 if self._failing else PATIENCE
        self._failing = False
        with suppress(OSError):  # of a socket that never came to be connected
            self.socket.settimeout(self._patience)
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self._failing = True

    def _connect_unixsocket(self, address: str) -> None:
        super()._connect_unixsocket(address)
        self.socket.settimeout(self._patience)


def check_syslog(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """lbadmin.W001: nothing takes the heads."""
    path = settings.LBADMIN_SYSLOG
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            return []
    except OSError:
        pass
    return [
        Warning(
            f"The heads of the audit history are not kept outside the database: there is no socket {path}.",
            hint="Run a syslog daemon (rsyslog, systemd-journald), or name its socket in LBADMIN_SYSLOG."
            " Until then audit_verify notices a cut-off end only against a head given with --head.",
            id="lbadmin.W001",
        )
    ]
