"""Servers on loopback that behave well or badly, each in a thread that ends with the test."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from balancer.domain.address_scalars import address as read_address
from balancer.domain.types import Health, format_endpoint
from balancer.probes.health.base import Target

Answer = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is fine\n"


def target(health: Health, *, port: int, address: str = "127.0.0.1") -> Target:
    """A backend on loopback, which a document would refuse."""
    endpoint = format_endpoint(address=read_address(address), port=port)
    return Target(
        service="web", backend=endpoint, health=health, address=address, port=port, endpoint=endpoint
    )


def hang(_: socket.socket) -> None:
    """Accepts, and never answers: the connection stays open until the server is closed."""
    threading.Event().wait(10)


def answer(*parts: bytes, pause: float = 0.0) -> Answer:
    """Reads the question, sends the parts with a pause before each, and closes."""

    def speak(opened: socket.socket) -> None:
        opened.recv(65536)
        for part in parts:
            threading.Event().wait(pause)
            opened.sendall(part)

    return speak


def bound(kind: socket.SocketKind, address: str, port: int = 0) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
    try:
        opened.bind((address, port))
    except OSError as error:
        opened.close()
        here = f"{address} port {port} cannot be used on this machine ({error.strerror})"
        raise AssertionError(f"{here}. The health checks are tried on loopback, of both families.") from error
    return opened


@contextmanager
def tcp_server(
    speak: Answer, *, address: str = "127.0.0.1", certificate: Path | None = None, port: int = 0
) -> Iterator[int]:
    """Its port."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    with bound(socket.SOCK_STREAM, address, port) as listener:
        listener.listen(64)

        def serve(opened: socket.socket) -> None:
            # The other side may go at any moment, and a test that ends closes the socket under our feet.
            with suppress(OSError), opened:
                if context is None:
                    speak(opened)
                    return
                with context.wrap_socket(opened, server_side=True) as wrapped:
                    speak(wrapped)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    opened, _ = listener.accept()
                    threading.Thread(target=serve, args=[opened], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def udp_server(reply: bytes | None, *, address: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and what it was sent; None never answers."""
    heard: list[bytes] = []
    with bound(socket.SOCK_DGRAM, address) as opened:
        opened.settimeout(0.1)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    data, sender = opened.recvfrom(2048)
                    heard.append(data)
                    if reply is not None:
                        opened.sendto(reply, sender)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield int(opened.getsockname()[1]), heard
        finally:
            ended.set()
            thread.join()


@contextmanager
def closed_port(kind: socket.SocketKind = socket.SOCK_STREAM, *, address: str = "127.0.0.1") -> Iterator[int]:
    """One at which nobody listens, and which nobody else is given meanwhile."""
    with bound(kind, address) as opened:
        if kind == socket.SOCK_DGRAM:
            opened.connect((address, 9))  # so that it hears nobody else
        yield int(opened.getsockname()[1])
