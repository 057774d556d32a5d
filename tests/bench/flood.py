"""Run inside the client's namespace: sends UDP packets, each a flow of its own, as fast as one core can.

    python -m tests.bench.flood SOURCE DESTINATION PORT COUNT

Prints the seconds of processor time that took. A packet crosses a veth in the sender's own system call, so
that they hold all that the balancer does with it, and nothing of what else the machine is busy with.
"""

import socket
import struct
import sys
import time


def main() -> None:
    source, destination, port, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    packets = [make_packet(source, destination, port, number) for number in range(count)]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.connect((destination, 0))
        send = raw.send
        started = time.process_time()
        for packet in packets:
            send(packet)
        print(time.process_time() - started)


def make_packet(source: str, destination: str, port: int, number: int) -> bytes:
    """An IPv4 packet with an empty UDP datagram and no UDP checksum; the kernel fills in the IP checksum."""
    flow = struct.pack("!HHHH", 1024 + number % 60000, port, 8, 0)
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(flow), number % 65536, 0, 64, socket.IPPROTO_UDP, 0)
        + socket.inet_aton(source)
        + socket.inet_aton(destination)
        + flow
    )


if __name__ == "__main__":
    main()
