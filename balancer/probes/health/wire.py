"""A socket in the loop with one deadline for all that is done with it.

A wait is one future, which readiness settles before a timer that is due in the same round: a loop that was
held up does not turn an answer into silence, as a timeout of asyncio would.
"""

import asyncio
import errno
import os
import socket
import ssl
import struct
from typing import Self

from balancer.probes.health.base import Target

# A reset leaves no TIME_WAIT behind, of which thousands of checks would make many.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CHUNK = 16384


class Silence(Exception):
    """The deadline has passed."""


class Wire:
    """A context manager around one socket to one target. Its methods raise Silence or OSError."""

    def __init__(self, target: Target, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        self._target = target
        self._kind = kind
        self._loop = asyncio.get_running_loop()
        self.started = self._loop.time()
        self._deadline = self.started + target.health.timeout
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    @property
    def seconds(self) -> float:
        """Since the check began."""
        return self._loop.time() - self.started

    async def connect(self) -> None:
        opened = socket.socket(self._target.family, self._kind | socket.SOCK_NONBLOCK)
        self._socket = opened
        if self._kind is socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        code = opened.connect_ex((self._target.address, self._target.port))
        if code == errno.EINPROGRESS:
            await self._wait(write=True)
            code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    async def start_tls(self, context: ssl.SSLContext, *, name: str) -> bytes:
        """The handshake; the certificate of the other side in DER."""
        assert self._socket is not None
        wrapped = context.wrap_socket(
            self._socket, server_hostname=name, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self._socket = wrapped
        while True:
            try:
                wrapped.do_handshake()
                return wrapped.getpeercert(binary_form=True) or b""
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                await self._wait(write=isinstance(error, ssl.SSLWantWriteError))

    async def send(self, data: bytes) -> None:
        assert self._socket is not None
        while True:
            try:
                data = data[self._socket.send(data) :]
                if not data:
                    return
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._wait(write=True)
            except ssl.SSLWantReadError:
                await self._wait(write=False)

    async def receive(self) -> bytes:
        """What has come; empty at the end."""
        assert self._socket is not None
        while True:
            try:
                return self._socket.recv(CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError):
                await self._wait(write=False)
            except ssl.SSLWantWriteError:
                await self._wait(write=True)

    async def _wait(self, *, write: bool) -> None:
        assert self._socket is not None
        loop, descriptor = self._loop, self._socket.fileno()
        ready: asyncio.Future[bool] = loop.create_future()
        if write:
            loop.add_writer(descriptor, _settle, ready, True)
        else:
            loop.add_reader(descriptor, _settle, ready, True)
        timer = loop.call_at(self._deadline, _settle, ready, False)
        try:
            if not await ready:
                raise Silence
        finally:
            timer.cancel()
            (loop.remove_writer if write else loop.remove_reader)(descriptor)


def _settle(ready: "asyncio.Future[bool]", value: bool) -> None:
    if not ready.done():
        ready.set_result(value)
