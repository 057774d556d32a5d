"""Our transport: kombu's for Redis, with a door that lets only hints through.

kombu reads an item of a Redis list and takes it for one of its own envelopes; an item that is not raises in
the worker's event loop and ends the worker. Here every item is read by `envelope.read_hint` before kombu sees
it. What is refused is dropped and put on record. Nothing is redelivered either: rows are the queue, so the
hashes in which kombu keeps unacknowledged messages (more bytes of strangers) are not used.
"""

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from queue import Empty
from typing import Any
from urllib.parse import urlsplit

import redis
from kombu import transport as kombu_transport
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from lbadmin.envelope import NotAHint, read_hint, write_envelope

ALIAS = "lbadmin"
kombu_transport.TRANSPORT_ALIASES[ALIAS] = "lbadmin.broker:Transport"

logger = logging.getLogger(__name__)


def broker_settings(url: str) -> dict[str, Any]:
    """Celery's broker settings for a Redis address, by way of our transport.

    `redis+socket:///path`, `redis://host:port/db` and `rediss://` (certificates are checked).
    """
    scheme = urlsplit(url).scheme
    if scheme == "redis+socket":
        return {"broker_url": url.replace("redis+socket", f"{ALIAS}+socket", 1)}
    if scheme == "redis":
        return {"broker_url": url, "broker_transport": ALIAS}
    if scheme == "rediss":
        return {"broker_url": url, "broker_transport": ALIAS, "broker_use_ssl": {"ssl_cert_reqs": "required"}}
    raise ValueError(
        f"LBADMIN_REDIS_URL must begin with redis+socket://, redis:// or rediss://, not {scheme}://."
    )


def broker_client(url: str, *, seconds: float) -> redis.Redis:
    """A connection of its own that waits no longer than this for anything."""
    if url.startswith("redis+socket://"):
        url = url.replace("redis+socket", "unix", 1)
    return redis.Redis.from_url(url, socket_timeout=seconds, socket_connect_timeout=seconds)


class Client(redis.Redis):
    """Reads the answers to BRPOP through the door."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        key, item = answer
        queue = key.decode("utf-8", "replace").split(Channel.sep, 1)[0]
        taken = admit(raw=item, queue=queue)
        # None is what BRPOP answers when nothing came.
        return None if taken is None else (key, taken)


class QoS(virtual.QoS):
    """Counts what is being worked on, in memory; what a lost worker held is found in the rows."""

    restore_at_shutdown = False

    def restore_unacked_once(self, stderr: Any = None) -> None:
        self._delivered.clear()


class Channel(kombu_redis.Channel):
    QoS = QoS
    ack_emulation = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.QoS = QoS

    def count_waiting(self, queue: str) -> int:
        """Messages in a queue; one of the wrong type counts as empty."""
        try:
            return int(self.client.llen(queue))
        except redis.ResponseError:
            return 0

    def _get_client(self) -> type[redis.Redis]:
        return Client

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except redis.ResponseError as error:
            # WRONGTYPE: something else lies where the queue should be, and would stop the node for good.
            self._remove_wrong_keys()
            refuse(queue=",".join(self.active_queues), code="not-a-queue", message=str(error), raw=b"")
            raise Empty from error

    def _remove_wrong_keys(self) -> None:
        with self.conn_or_acquire() as client:
            keys = [self._q_for_pri(q, step) for q in self.active_queues for step in self.priority_steps]
            wrong = [key for key in keys if client.type(key) not in (b"list", b"none")]
            if wrong:
                client.delete(*wrong)


class Transport(kombu_redis.Transport):
    Channel = Channel
    # Not "redis": for that name Celery starts gossip and mingle, which would listen to strangers.
    driver_type = ALIAS


def admit(*, raw: bytes, queue: str) -> bytes | None:
    """The item as a message of our own making; None where it is refused, or comes too late."""
    try:
        hint = read_hint(raw)
    except NotAHint as error:
        refuse(queue=queue, code=error.code, message=str(error), raw=raw)
        return None
    if hint.is_expired(now=datetime.now(UTC)):
        return None
    return write_envelope(hint, queue=queue, message_id=str(uuid.uuid4()))


def refuse(*, queue: str, code: str, message: str, raw: bytes) -> None:
    """Put a refused message on record; a database that does not answer must not stop the worker."""
    from django.db import Error, connection

    from balancer.workflow.messages import record_refused_message

    logger.warning("A message in %s was refused (%s): %s", queue, code, message)
    try:
        record_refused_message(queue=queue, code=code, message=message, raw=raw)
    except Error:
        logger.exception("The refusal could not be put on record.")
    finally:
        # This is the worker's main process, which forks: a child must not inherit the connection.
        connection.close()


def options() -> Mapping[str, Any]:
    """Transport options for Celery. Whoever publishes is told soon that the broker is not there."""
    retries = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
    return {"socket_connect_timeout": 5, "socket_timeout": 10, **retries}
