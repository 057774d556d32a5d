"""`python -m balancer.lab.listeners --tcp 80 --udp 53`: answers on the ports, at every address that is local.

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

_IP_PKTINFO = 8
"""ip(7); Python 3.11 does not name it."""
_PKTINFO_SIZE = struct.calcsize("I4s4s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tcp", type=int, action="append", default=[])
    parser.add_argument("--udp", type=int, action="append", default=[])
    options = parser.parse_args()
    asyncio.run(listen(tcp=options.tcp, udp=options.udp))


async def listen(*, tcp: list[int], udp: list[int]) -> None:
    for port in tcp:
        await asyncio.start_server(_serve_stream, "0.0.0.0", port, backlog=4096)
    for port in udp:
        _listen_datagrams(port)
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


def _listen_datagrams(port: int) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    listener.bind(("0.0.0.0", port))
    asyncio.get_running_loop().add_reader(listener, _answer_datagrams, listener)


def _answer_datagrams(listener: socket.socket) -> None:
    """Answer from the address that was asked: a wildcard socket alone would answer from the route's."""
    while True:
        try:
            _, ancillary, _, peer = listener.recvmsg(2048, socket.CMSG_SPACE(_PKTINFO_SIZE))
        except BlockingIOError:
            return
        _, _, destination = struct.unpack("I4s4s", ancillary[0][2][:_PKTINFO_SIZE])
        reached = (socket.inet_ntoa(destination), listener.getsockname()[1])
        source = struct.pack("I4s4s", 0, destination, b"\0\0\0\0")
        try:
            listener.sendmsg([_describe(reached, peer)], [(socket.IPPROTO_IP, _IP_PKTINFO, source)], 0, peer)
        except OSError as error:
            print(f"cannot answer {peer}: {error}", file=sys.stderr, flush=True)


def _describe(reached: tuple[str, int], peer: tuple[str, int]) -> bytes:
    return json.dumps({"backend": f"{reached[0]}:{reached[1]}", "peer": f"{peer[0]}:{peer[1]}"}).encode()


if __name__ == "__main__":
    main()
