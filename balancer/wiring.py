"""Composition root: from settings to the kernel, the clock and the process that the use cases are given."""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from threading import Timer

import redis
from celery import current_app
from celery.signals import worker_ready
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone
from django.utils.module_loading import import_string
from kombu.exceptions import OperationalError

from balancer.domain.health import Standing
from balancer.domain.passive import Look
from balancer.domain.types import Document, Service
from balancer.factories import AUTO
from balancer.kernel.base import Flavour, Kernel, KernelError, ensure_own_namespace
from balancer.kernel.guard import Guard
from balancer.models import Node
from balancer.probes.aside import run_aside
from balancer.probes.base import ServiceProbe
from balancer.probes.health.passive import CannotLook
from balancer.probes.through import probe_services
from balancer.workflow.balancing import look_soon, wake_for_next_step
from balancer.workflow.claims import own_identity
from balancer.workflow.confirming import Bench, ConfirmProbe
from balancer.workflow.health import keep_only, record_standings, targets_of
from balancer.workflow.jobs import confirm_job, run_job
from balancer.workflow.node_looks import NodeMemory
from balancer.workflow.nodes import carry_own_health, reconcile_node
from balancer.workflow.queue import NODE_TICK
from balancer.workflow.rehearsing import Rehearse, run_rehearsal
from lbadmin.broker import broker_client

BROKER_SECONDS = 3.0
WAITING_MAX = 2
"""A node whose queue holds more messages is absent or busy; it needs no further reminder."""
WAKE_SECONDS = 10
"""What a reminder is worth: the node looks by itself every few seconds."""
_memory = NodeMemory()

logger = logging.getLogger(__name__)


def run_own_job(*, job_id: str) -> None:
    """Carry out a job of the node whose worker this process is."""
    name = own_node_name()
    run_job(
        job_id=job_id,
        node_name=name,
        kernel=kernel_of(node_name=name),
        guard=own_guard(),
        identity=own_identity(),
        confirm=check_node,
    )
    # A first apply turns forwarding on: the node's page should say so at the next tick.
    _memory.facts_due = None
    # After every write the kernel is compared with what it should carry.
    _memory.compare_due = None
    _carry_own_health()
    _look_soon()


def reconcile_own_node() -> None:
    name = own_node_name()
    reconcile_node(
        node_name=name,
        kernel=kernel_of(node_name=name),
        guard=own_guard(),
        memory=_memory,
        identity=own_identity(),
        rehearse=rehearse_of(node_name=name),
        confirm=check_node,
        wake=wake_own_node_in,
    )


def run_own_rehearsal(*, rehearsal_id: str) -> None:
    """Carry out a rehearsal of the node whose worker this process is."""
    name = own_node_name()
    run_rehearsal(
        rehearsal_id=rehearsal_id,
        node_name=name,
        rehearse=rehearse_of(node_name=name),
        identity=own_identity(),
        meanwhile=_carry_own_health,
    )


def _carry_own_health() -> None:
    node = Node.objects.defer("observation", "clients").filter(name=own_node_name()).first()
    if node is not None:
        carry_own_health(node=node, bench=_own_bench(), memory=_memory)


def _own_bench() -> Bench:
    kernel = kernel_of(node_name=own_node_name())
    return Bench(kernel=kernel, guard=own_guard(), confirm=check_node, clock=timezone.now)


def confirm_own_job(*, job_id: str) -> None:
    """A person has confirmed: make it final, if the guard still waits."""
    name = own_node_name()
    confirm_job(job_id=job_id, node_name=name, bench=_own_bench())
    _look_soon()


def own_guard() -> Guard:
    """The guard of the node whose worker this process is, as the settings' factory makes it."""
    return _guard(settings.LBADMIN_GUARD_FACTORY, settings.LBADMIN_GUARD, str(settings.LBADMIN_GUARD_DIR))


def check_node(
    document: Document, touched: frozenset[str], meanwhile: Callable[[], None]
) -> tuple[ConfirmProbe, ...]:
    """What is asked after a commit, beside what the worker asks of database and kernel itself."""
    return run_aside(lambda: (probe_broker(), *answers(document, touched)), meanwhile=meanwhile)


def answers(document: Document, touched: frozenset[str]) -> tuple[ConfirmProbe, ...]:
    """Whether the touched services answer through the node."""
    found = ask_services(document, touched)
    return tuple(ConfirmProbe(one.service or "services", one.passed, one.text) for one in found)


def probe_broker() -> ConfirmProbe:
    """A PING and its answer, on a connection of its own: one that lies in a pool proves nothing."""
    started = time.monotonic()
    try:
        with closing(broker_client(settings.LBADMIN_REDIS_URL, seconds=BROKER_SECONDS)) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        return ConfirmProbe("broker", False, f"The broker does not answer: {error}")
    took = round((time.monotonic() - started) * 1000)
    return ConfirmProbe("broker", True, f"The broker answered after {took} ms.")


def own_health_targets() -> tuple[Service, ...]:
    """What the health daemon of the node has to check."""
    return targets_of(own_node_name())


def record_own_standings(standings: Sequence[Standing]) -> None:
    """What its checks found, and that it is there."""
    record_standings(own_node_name(), standings, clock=timezone.now)


def keep_own_standings(services: Sequence[Service]) -> None:
    """Of these services and no others: they are what it checks now."""
    keep_only(own_node_name(), services)


def look_at_connections(services: Collection[Service]) -> Mapping[tuple[str, str], Look]:
    """For passive health."""
    from balancer.kernel.looks import look_at

    try:
        return look_at(services, flavour=_flavour(settings.LBADMIN_FLAVOUR))
    except KernelError as error:
        raise CannotLook(str(error)) from error


def wake_own_node() -> None:
    """Have the worker look at its rows now. Without a broker, raises what redis and kombu raise."""
    queue = f"node.{own_node_name()}"
    with closing(broker_client(settings.LBADMIN_REDIS_URL, seconds=BROKER_SECONDS)) as client:
        waiting = int(client.llen(queue))
    if waiting <= WAITING_MAX:
        current_app.send_task(NODE_TICK, queue=queue, retry=False, ignore_result=True, expires=WAKE_SECONDS)


def wake_own_node_in(seconds: float) -> None:
    """From the worker itself, which goes on with what waits until then. A wake that is lost costs a step of a
    slow start: the next usual tick makes up for it."""
    timer = Timer(seconds, _try_to_wake)
    timer.daemon = True
    timer.start()


def _try_to_wake() -> None:
    try:
        wake_own_node()
    except (redis.RedisError, OSError, OperationalError) as error:
        logger.info("No tick of its own for a backend that rises: %s", error)


def _look_soon() -> None:
    """After a job: a backend may have begun to rise with it."""
    node = Node.objects.defer("observation", "clients").filter(name=own_node_name()).first()
    if node is not None:
        now = timezone.now()
        look_soon(node=node, memory=_memory.balancing, now=now)
        wake_for_next_step(memory=_memory.balancing, wake=wake_own_node_in, now=now)


def own_node_name() -> str:
    if not settings.LBADMIN_NODE:
        raise ImproperlyConfigured("LBADMIN_NODE is not set: this process is no node's worker.")
    return str(settings.LBADMIN_NODE)


def kernel_of(*, node_name: str) -> Kernel:
    """The kernel as the node's row and the environment ask for it; the environment wins."""
    return _kernel(settings.LBADMIN_KERNEL_FACTORY, settings.LBADMIN_FLAVOUR, _driver_of(node_name))


def rehearse_of(*, node_name: str) -> Rehearse:
    """The node's own way to rehearse: with the flavour and the driver that `kernel_of` would use."""
    make = import_string(settings.LBADMIN_REHEARSAL_FACTORY)
    found: Rehearse = make(flavour=settings.LBADMIN_FLAVOUR, driver=_driver_of(node_name))
    return found


def _driver_of(node_name: str) -> str:
    asked = settings.LBADMIN_DRIVER
    if asked == AUTO:
        asked = Node.objects.filter(name=node_name).values_list("driver", flat=True).first() or AUTO
    return str(asked)


def ask_services(document: Document, touched: frozenset[str]) -> tuple[ServiceProbe, ...]:
    """Whether the touched services answer through this node, whose worker this process is."""
    return probe_services(
        document=document,
        services=touched,
        ensure_allowed=partial(ensure_own_namespace, this_host=settings.LBADMIN_THIS_HOST),
        network=settings.LBADMIN_PROBE_NETWORK,
        network_ipv6=settings.LBADMIN_PROBE_NETWORK_IPV6,
    )


@cache
def _flavour(asked: str) -> Flavour:
    from balancer.kernel.flavour import detect_host_tool

    return detect_host_tool().flavour if asked == AUTO else Flavour(asked)


@cache
def _guard(factory: str, mode: str, directory: str) -> Guard:
    guard: Guard = import_string(factory)(mode=mode, directory=directory)
    return guard


@cache
def _kernel(factory: str, flavour: str, driver: str) -> Kernel:
    """One for the life of the process: choosing a driver includes a self-test."""
    kernel: Kernel = import_string(factory)(flavour=flavour, driver=driver)
    return kernel


@worker_ready.connect
def _tick_at_once(sender: object, **_: object) -> None:
    """The first tick comes with the worker itself, not with beat's next one."""
    app = sender.app  # type: ignore[attr-defined]
    app.send_task(NODE_TICK, queue=f"node.{own_node_name()}", retry=False)
