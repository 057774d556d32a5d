"""Whether a backend accepts a TCP connection. Nothing is sent; the connection is reset at once."""

from balancer.domain.health import Result
from balancer.probes.health.base import Target
from balancer.probes.health.wire import Silence, Wire
from balancer.probes.health.words import describe_time, failed, silent


async def check_tcp(target: Target) -> Result:
    tried = f"tried to connect to {target.endpoint}"
    with Wire(target) as wire:
        try:
            await wire.connect()
        except Silence:
            return silent(tried, timeout=target.health.timeout)
        except OSError as error:
            return failed(tried, error, seconds=wire.seconds)
        return Result(good=True, reason=f"connected to {target.endpoint} in {describe_time(wire.seconds)}")
