"""Much data through one connection."""

import socket
import threading
from contextlib import suppress

MUCH = 200_000


def carried(sender: socket.socket, receiver: socket.socket) -> int:
    """How many of MUCH bytes came."""

    def send() -> None:
        with suppress(OSError):
            sender.sendall(bytes(MUCH))

    threading.Thread(target=send, daemon=True).start()
    came = 0
    with suppress(OSError):
        while came < MUCH:
            came += len(receiver.recv(1 << 16))
    return came
