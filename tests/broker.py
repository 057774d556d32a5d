"""Which broker this process publishes to; the processes that it starts have their own environment."""

from collections.abc import Iterator
from contextlib import contextmanager

import kombu.pools
import pytest

from lbadmin.broker import broker_settings
from lbadmin.celery import app


@contextmanager
def using_broker(url: str) -> Iterator[None]:
    """What this process publishes goes to this broker meanwhile."""
    asked = broker_settings(url)
    before = {name: app.conf[name] for name in asked}
    app.conf.update(asked)
    _forget_connections()
    try:
        yield
    finally:
        app.conf.update(before)
        _forget_connections()


@pytest.fixture(scope="session", autouse=True)
def no_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A developer's own stack may be running: no test publishes to it."""
    with using_broker(f"redis+socket://{tmp_path_factory.mktemp('broker')}/absent.sock"):
        yield


def _forget_connections() -> None:
    kombu.pools.reset()
    app._pool = None
    app.amqp._producer_pool = None
