"""Whether a backend answers a datagram, or at least does not refuse it."""

import socket

from balancer.domain.health import Result
from balancer.domain.payload import payload_bytes
from balancer.probes.health.base import Target
from balancer.probes.health.wire import Silence, Wire
from balancer.probes.health.words import describe_bytes, describe_time, failed, silent


async def check_udp(target: Target) -> Result:
    """A connected socket, which the kernel tells of ICMP port unreachable."""
    tried = f"sent a UDP packet to {target.endpoint}"
    with Wire(target, kind=socket.SOCK_DGRAM) as wire:
        try:
            await wire.connect()
            await wire.send(payload_bytes(target.health.send))
            return await _listen(target, wire, tried)
        except OSError as error:
            return failed(tried, error, seconds=wire.seconds)


async def _listen(target: Target, wire: Wire, tried: str) -> Result:
    wanted = payload_bytes(target.health.expect)
    last: bytes | None = None
    try:
        while True:
            last = await wire.receive()
            if wanted in last:
                return Result(good=True, reason=f"{tried}, answered in {describe_time(wire.seconds)}")
    except Silence:
        if not wanted:
            return Result(good=True, reason=f"{tried}, not refused within {target.health.timeout:g} s")
    if last is None:
        return silent(tried, timeout=target.health.timeout)
    return Result(
        good=False, reason=f"{tried}, the answer {describe_bytes(last)} does not hold what is expected"
    )
