"""The backends of `script/bench health`: one process that answers at every local address.

Prints the ports of HTTP, HTTPS and UDP as soon as it listens.
"""

import asyncio
import ssl
import sys
from typing import cast

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nall is fine\n"


class Http(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)
        self.transport.close()


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


async def main(certificate: str) -> None:
    loop = asyncio.get_running_loop()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    http = await loop.create_server(Http, "127.0.0.1", 0, backlog=1024)
    https = await loop.create_server(Http, "127.0.0.1", 0, ssl=context, backlog=1024)
    udp, _ = await loop.create_datagram_endpoint(Echo, ("127.0.0.1", 0))
    ports = [one.sockets[0].getsockname()[1] for one in (http, https)]
    print(*ports, udp.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
