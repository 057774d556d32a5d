"""`python -m balancer.lab.listeners --tcp 80 --udp 53`: answers on the ports, at every address that is local.

With `--ipv6` at those of both families.

The answer says which address was reached and from where:
`{"backend": "10.0.0.3:80", "peer": "10.0.0.1:40000"}`; over TCP as an HTTP response, over UDP as a datagram.
Prints `ready` once every port is open. Standard library only.
"""

import argparse
import asyncio
import json
import socket
import struct
import sys
from typing import Any

_IP_PKTINFO = 8
"""ip(7); Python 3.11 does not name it."""
_PKTINFO_SIZE = struct.calcsize("I4s4s")
_PKTINFO6_SIZE = struct.calcsize("16sI")
"""ipv6(7): struct in6_pktinfo."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tcp", type=int, action="append", default=[])
    parser.add_argument("--udp", type=int, action="append", default=[])
    parser.add_argument("--ipv6", action="store_true")
    options = parser.parse_args()
    places = ["0.0.0.0", "::"] if options.ipv6 else ["0.0.0.0"]
    asyncio.run(listen(places=places, tcp=options.tcp, udp=options.udp))


async def listen(*, places: list[str], tcp: list[int], udp: list[int]) -> None:
    for port in tcp:
        await asyncio.start_server(_serve_stream, places, port, backlog=4096)
    for port in udp:
        for place in places:
            _listen_datagrams(place, port)
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await _answer_requests(reader, writer)
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # a client may leave whenever it likes
    finally:
        writer.close()


async def _answer_requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One answer for each request; the connection stays open for `Connection: keep-alive` alone."""
    answer = _describe(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
    while True:
        request = (await reader.readuntil(b"\r\n\r\n")).lower()
        keep = b"connection: keep-alive" in request
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(answer)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        writer.write(head.encode() + answer)
        await writer.drain()
        if not keep:
            return


def _listen_datagrams(place: str, port: int) -> None:
    six = ":" in place
    family = socket.AF_INET6 if six else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if six:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    listener.bind((place, port))
    asyncio.get_running_loop().add_reader(listener, _answer_datagrams, listener)


def _answer_datagrams(listener: socket.socket) -> None:
    """Answer from the address that was asked: a wildcard socket alone would answer from the route's."""
    six = listener.family == socket.AF_INET6
    while True:
        try:
            _, ancillary, _, peer = listener.recvmsg(2048, socket.CMSG_SPACE(_PKTINFO6_SIZE))
        except BlockingIOError:
            return
        host, source = _reached6(ancillary[0][2]) if six else _reached4(ancillary[0][2])
        reached = (host, listener.getsockname()[1])
        try:
            listener.sendmsg([_describe(reached, peer)], [source], 0, peer)
        except OSError as error:
            print(f"cannot answer {peer}: {error}", file=sys.stderr, flush=True)


def _reached4(info: bytes) -> tuple[str, tuple[int, int, bytes]]:
    """The address that was asked, and the control message that makes it the source."""
    _, _, destination = struct.unpack("I4s4s", info[:_PKTINFO_SIZE])
    source = struct.pack("I4s4s", 0, destination, b"\0\0\0\0")
    return socket.inet_ntoa(destination), (socket.IPPROTO_IP, _IP_PKTINFO, source)


def _reached6(info: bytes) -> tuple[str, tuple[int, int, bytes]]:
    destination, _ = struct.unpack("16sI", info[:_PKTINFO6_SIZE])
    source = struct.pack("16sI", destination, 0)
    host = socket.inet_ntop(socket.AF_INET6, destination)
    return host, (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)


def _describe(reached: tuple[Any, ...], peer: tuple[Any, ...]) -> bytes:
    return json.dumps({"backend": _endpoint(*reached[:2]), "peer": _endpoint(*peer[:2])}).encode()


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main()
