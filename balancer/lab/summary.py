"""What a rehearsal says as a whole. Pure."""

from collections.abc import Sequence

from balancer.domain.types import PersistenceMode
from balancer.lab.judge import Expectation, describe_success
from balancer.lab.places import Place
from balancer.lab.rehearsal import Loaded, Omitted, Rehearsal, ServiceResult
from balancer.lab.sample import DELETED, DISABLED
from balancer.lab.visitor import Tour

_LISTED = 5


def describe_places(places: Sequence[Place]) -> str:
    first, more = places[0], len(places) - 1
    return f"{first}" + (f" and {more} more place{'s' * (more > 1)}" if more else "")


def describe_tour(*, expected: Expectation, tour: Tour) -> str:
    """What went well."""
    text = describe_success(expected=expected, counts=tour.counts)
    if tour.again:
        text += f" {len(tour.again)} clients came again, and each got the backend that it had."
    elif expected.shares and expected.service.persistence.mode is not PersistenceMode.NONE:
        seconds = expected.service.persistence.timeout
        text += f" Persistence was not measured: clients are kept for {seconds} s only."
    for aside in tour.asides:
        text += f" {aside.counts.sent} more from {aside.who}: as promised."
    return text


def sum_up(
    *,
    loaded: Loaded,
    services: tuple[ServiceResult, ...],
    omitted: tuple[Omitted, ...],
    late: tuple[Omitted, ...],
    touched: frozenset[str] | None,
    seconds: float,
) -> Rehearsal:
    failed = [service.name for service in services if not service.passed]
    missing = [one.name for one in late if one.touched]
    unmeasured = _find_unmeasured(services=services, omitted=omitted, touched=touched)
    scope = _describe_scope(services=services, omitted=omitted, unmeasured=unmeasured)
    if loaded.error is not None:
        verdict = f"Failed: the ruleset was not loaded. {loaded.error}"
    elif failed:
        verdict = f"Failed: {', '.join(failed)} did not do what is promised. {scope}"
    elif missing:
        verdict = f"Failed: there was no time for {', '.join(missing)}. {scope}"
    else:
        verdict = f"Passed: {scope}"
    return Rehearsal(
        passed=loaded.error is None and not failed and not missing,
        verdict=verdict,
        loaded=loaded,
        services=services,
        omitted=tuple(sorted(omitted, key=lambda one: one.name)),
        unmeasured=unmeasured,
        seconds=seconds,
    )


def _find_unmeasured(
    *, services: tuple[ServiceResult, ...], omitted: tuple[Omitted, ...], touched: frozenset[str] | None
) -> tuple[Omitted, ...]:
    """What a pass says nothing about: a few probes do not show shares, and none show nothing."""
    found = [one for one in omitted if one.touched and one.reason not in {DELETED, DISABLED}]
    for service in services:
        if not service.touched and (touched is None or service.name in touched):
            reason = f"{service.sent} probes only, as others are in the sample"
            found.append(Omitted(name=service.name, touched=True, reason=reason))
    return tuple(sorted(found, key=lambda one: one.name))


def _describe_scope(
    *, services: tuple[ServiceResult, ...], omitted: tuple[Omitted, ...], unmeasured: tuple[Omitted, ...]
) -> str:
    measured = sum(service.touched for service in services)
    plural = "" if measured == 1 else "s"
    scope = (
        f"{measured} service{plural} measured, {len(services) - measured} probed, {len(omitted)} left out."
    )
    if not unmeasured:
        return scope
    listed = [f"{one.name} ({one.reason})" for one in unmeasured[:_LISTED]]
    more = [f"{len(unmeasured) - _LISTED} more"] if len(unmeasured) > _LISTED else []
    return f"{scope} Changed, but not measured: {', '.join([*listed, *more])}."
