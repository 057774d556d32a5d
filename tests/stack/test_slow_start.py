"""A backend that comes back rises step by step: its worker asks the real broker for the ticks this takes."""

from balancer.kernel.base import Flavour
from balancer.models import WeightMove
from tests.kernel.machine import Namespace
from tests.stack.machinery import Stack, eventually
from tests.stack.site import NFT, make_site, wait_for_end, wait_for_worker
from tests.stack.test_health import GONE, say
from tests.stack.test_overrides import chosen, is_chosen
from tests.workflow.healing import web

SECONDS = 8
"""Of the slow start: one for each of its steps, and no two commits come nearer than that."""


def test_a_backend_rises_in_steps_by_ticks_that_its_worker_asks_for(stack: Stack) -> None:
    """There is no beat here, whose ticks would be too far apart for it."""
    site = make_site("lb2")
    inside = Namespace()
    stack.worker("lb2", inside=inside, **NFT)
    wait_for_worker("lb2", stack=stack)
    check = {"kind": "tcp", "interval": 1, "timeout": 1}
    service = web(health=check, scheduler="random", slow_start=SECONDS)
    assert wait_for_end(site.start(service)).state == "succeeded"

    say("lb2", up=False)
    place = inside, Flavour.NFT
    eventually(lambda: not is_chosen(GONE, chosen(place)), what="the backend's leaving")
    say("lb2", up=True)
    eventually(lambda: steps()[-1:] == [f"step {SECONDS} of {SECONDS}"], what="the last step of its rise")

    assert is_chosen(GONE, chosen(place))
    print(f"{len(steps())} steps in {rise_seconds():.1f} s")
    assert len(steps()) > SECONDS / 2, "each of them, but for those that a busy machine came too late for"
    assert rise_seconds() < 3 * SECONDS
    inside.close()


def steps() -> list[str]:
    moves = WeightMove.objects.filter(backend=GONE).order_by("pk")
    return [move.why.rpartition(": ")[2] for move in moves]


def rise_seconds() -> float:
    moves = WeightMove.objects.filter(backend=GONE)
    return (moves.latest("at").at - moves.earliest("at").at).total_seconds()
