"""Whether a machine answers a ping. One socket for each family serves all checks."""

import asyncio
import errno
import secrets
import socket
import struct

from balancer.domain.health import Result
from balancer.probes.health.base import Target
from balancer.probes.health.words import describe_time, failed, silent

_ECHO = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
"""Types of RFC 792 and RFC 4443."""
_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_HEAD = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, number."""
_TOKEN = 12
"""Random bytes that an answer brings back: who did not see the question cannot answer it."""
_RECEIVE_BUFFER = 1 << 20
_AT_ONCE = 1000
_SOL_RAW, _ICMP_FILTER, _ICMPV6_FILTER = 255, 1, 1
"""linux/icmp.h, linux/icmpv6.h: a bit that is set keeps a type out."""


class Pinger:
    """Opens what it needs when it is first needed; close it at the end."""

    def __init__(self) -> None:
        self._sockets: dict[socket.AddressFamily, socket.socket] = {}
        self._waiting: dict[bytes, tuple[str, asyncio.Future[bool]]] = {}
        self._identifier = secrets.randbits(16)
        self._number = 0

    async def check(self, target: Target) -> Result:
        loop = asyncio.get_running_loop()
        tried, started = f"pinged {target.address}", loop.time()
        token, answered = secrets.token_bytes(_TOKEN), loop.create_future()
        timer = loop.call_later(target.health.timeout, _settle, answered, False)
        self._waiting[token] = target.address, answered
        try:
            self._send(target, token)
            if not await answered:
                return silent(tried, timeout=target.health.timeout)
        except OSError as error:
            return failed(tried, error, seconds=loop.time() - started)
        finally:
            del self._waiting[token]
            timer.cancel()
        return Result(good=True, reason=f"{tried}, answered in {describe_time(loop.time() - started)}")

    def close(self) -> None:
        for opened in self._sockets.values():
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()

    def _send(self, target: Target, token: bytes) -> None:
        opened = self._sockets.get(target.family) or self._open(target.family)
        self._number = (self._number + 1) & 0xFFFF
        packet = make_echo(target.family, identifier=self._identifier, number=self._number, token=token)
        try:
            opened.sendto(packet, (target.address, 0))
        except ConnectionRefusedError:
            # An ICMP error about an earlier question, told to whoever uses the socket next.
            opened.sendto(packet, (target.address, 0))

    def _open(self, family: socket.AddressFamily) -> socket.socket:
        opened = open_socket(family)
        self._sockets[family] = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._receive, opened, family)
        return opened

    def _receive(self, opened: socket.socket, family: socket.AddressFamily) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet, sender = opened.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                continue  # about one question; its check will have no answer in time
            token = read_reply(packet, family, raw=opened.type is socket.SOCK_RAW)
            address, answered = self._waiting.get(token or b"", ("", None))
            if answered is not None and address == sender[0]:
                _settle(answered, True)


def open_socket(family: socket.AddressFamily) -> socket.socket:
    """A raw one, for which the daemon has CAP_NET_RAW, or else the kernel's own for pings, if it lets us."""
    try:
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _PROTOCOL[family])
    except PermissionError as error:
        if error.errno not in {errno.EPERM, errno.EACCES}:
            raise
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _PROTOCOL[family])
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    if opened.type is socket.SOCK_RAW:
        _take_replies_only(opened, family)
    return opened


def make_echo(family: socket.AddressFamily, *, identifier: int, number: int, token: bytes) -> bytes:
    head = _HEAD.pack(_ECHO[family], 0, 0, identifier, number)
    if family is socket.AF_INET:  # of IPv6 the kernel fills it in: it covers addresses, too
        head = _HEAD.pack(_ECHO[family], 0, checksum(head + token), identifier, number)
    return head + token


def read_reply(packet: bytes, family: socket.AddressFamily, *, raw: bool) -> bytes | None:
    """The token of an echo reply; a raw IPv4 socket gives the header of IP as well."""
    if raw and family is socket.AF_INET and packet:
        packet = packet[(packet[0] & 0x0F) * 4 :]
    if len(packet) < _HEAD.size or packet[0] != _REPLY[family]:
        return None
    return packet[_HEAD.size : _HEAD.size + _TOKEN]


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _take_replies_only(opened: socket.socket, family: socket.AddressFamily) -> None:
    if family is socket.AF_INET:
        opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("I", 0xFFFFFFFF & ~(1 << _REPLY[family])))
        return
    words = [0xFFFFFFFF] * 8
    words[_REPLY[family] >> 5] &= ~(1 << (_REPLY[family] & 31)) & 0xFFFFFFFF
    opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("8I", *words))


def _settle(answered: "asyncio.Future[bool]", value: bool) -> None:
    if not answered.done():
        answered.set_result(value)
