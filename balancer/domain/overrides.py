"""Operational overrides: what operators set on a backend beside the document, and what comes of it.

An override never enters the document: it is laid over it on the way to the kernel, and lifting it gives back
what was approved.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from typing import Any

from balancer.domain.codec import digest_text
from balancer.domain.operation import OperationPolicy
from balancer.domain.problem import errors
from balancer.domain.types import Address, Backend, BackendState, Document, Service, format_endpoint
from balancer.domain.validation import validate_parsed

WEIGHT_MIN, WEIGHT_MAX = 1, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One backend's state or weight, never both: each is set and lifted on its own."""

    service: str
    address: Address
    port: int
    state: BackendState | None = None
    weight: int | None = None

    @property
    def endpoint(self) -> str:
        return format_endpoint(address=self.address, port=self.port)

    @property
    def place(self) -> tuple[str, Address, int, bool]:
        """What a second override takes the place of: the same kind on the same backend."""
        return self.service, self.address, self.port, self.state is None

    def to_data(self) -> dict[str, Any]:
        """JSON data, for receipts and digests."""
        state = None if self.state is None else str(self.state)
        return {**asdict(self), "address": str(self.address), "state": state}


def override_from_data(data: Mapping[str, Any]) -> Override:
    """The inverse of `Override.to_data`, for what a receipt has kept."""
    return Override(
        service=data["service"],
        address=ip_address(data["address"]),
        port=data["port"],
        state=None if data["state"] is None else BackendState(data["state"]),
        weight=data["weight"],
    )


def with_overrides(document: Document, overrides: Iterable[Override]) -> Document:
    """The document as the nodes carry it: valid where the document is.

    An override of a backend that is not in the document has no effect. Where a service with all of its
    overrides would not be valid (round robin counts to a limit), those that only take traffic away hold.
    """
    found = _by_service(overrides)
    if not found:
        return document
    services = (service_with_overrides(s, found.get(s.name, ())) for s in document.services)
    return replace(document, services=tuple(services))


def service_with_overrides(service: Service, overrides: Iterable[Override]) -> Service:
    """The same for one service; overrides of others have no effect."""
    own = [override for override in _sorted(overrides) if override.service == service.name]
    if not own:
        return service
    wanted = _laid_over(service, own)
    return wanted if _is_valid(wanted) else _laid_over(service, [o for o in own if _takes_away(o)])


def put_override(overrides: Iterable[Override], override: Override) -> tuple[Override, ...]:
    """The overrides with this one, in the place of an older one of the same kind on the same backend."""
    return (*(other for other in overrides if other.place != override.place), override)


def why_not_override(
    document: Document, overrides: Iterable[Override], override: Override, policy: OperationPolicy
) -> str | None:
    """Why an operator may not set this beside those that are in force, in a sentence; None where they may."""
    service, backend = _find(document, override)
    if service is None or backend is None:
        return f"The service {override.service} has no backend {override.endpoint} in what is live."
    if override.weight is not None:
        why_not = _why_not_weight(backend, override.weight, policy)
        if why_not is not None:
            return why_not
    return _why_not_together(service, tuple(overrides), put_override(overrides, override), policy)


def why_not_lift(
    document: Document, overrides: Iterable[Override], override: Override, policy: OperationPolicy
) -> str | None:
    """Why lifting would leave the service with too little, in a sentence; None where it can be lifted."""
    service, _ = _find(document, override)
    if service is None:
        return None
    before = tuple(overrides)
    after = tuple(other for other in before if other.place != override.place)
    return _why_not_together(service, before, after, policy)


def is_approved(document: Document, override: Override) -> bool:
    """Whether the document itself says what the override would set."""
    _, backend = _find(document, override)
    return backend is not None and _apply(backend, override) == backend


def why_without_effect(document: Document, overrides: Iterable[Override], override: Override) -> str | None:
    """Why one of the overrides in force changes nothing, in a sentence; None where it does."""
    service, backend = _find(document, override)
    if service is None or backend is None:
        return f"It has no effect: what is live has no backend {override.endpoint} in {override.service}."
    if _apply(backend, override) == backend:
        return "It has no effect: what is live says the same."
    _, result = _find(with_overrides(document, overrides), override)
    if result is not None and _apply(result, override) != result:
        return "It has no effect: with the weights that are live now, the scheduler cannot share like that."
    return None


def weight_range(*, approved: int, policy: OperationPolicy) -> tuple[int, int]:
    """The lowest and the highest weight that operators may set, both included."""
    spread = approved * policy.override_weight_percent // 100
    return max(WEIGHT_MIN, approved - spread), min(WEIGHT_MAX, approved + spread)


def digest_overrides(overrides: Iterable[Override]) -> str:
    """One number for a set of overrides, in whatever order; empty where there is none."""
    data = [override.to_data() for override in _sorted(overrides)]
    return digest_text(json.dumps(data, sort_keys=True)) if data else ""


def _why_not_weight(backend: Backend, weight: int, policy: OperationPolicy) -> str | None:
    low, high = weight_range(approved=backend.weight, policy=policy)
    if low <= weight <= high:
        return None
    within = f"the weight {low}" if low == high else f"a weight from {low} to {high}"
    return (
        f"The approved weight of {backend.endpoint} is {backend.weight}; within"
        f" {policy.override_weight_percent} % of it operators can set {within}. For another one, propose a"
        " change of the service."
    )


def _why_not_together(
    service: Service, before: tuple[Override, ...], after: tuple[Override, ...], policy: OperationPolicy
) -> str | None:
    """What stands against going from one set of overrides to another, for one service."""
    was, now = (len(service_with_overrides(service, o).usable_backends) for o in (before, after))
    if now < was and now < policy.override_keep:
        many = "one backend that takes" if policy.override_keep == 1 else f"{policy.override_keep} that take"
        return (
            f"Then {now} of the backends of {service.name} would take new connections, and operators have to"
            f" leave {many} them. Enable another one first, or propose a change."
        )
    own = [override for override in after if override.service == service.name]
    if not _is_valid(_laid_over(service, own)):
        problem = next(p for p in _problems(_laid_over(service, own)))
        return f"The service {service.name} would not be valid: {problem}"
    return None


def _find(document: Document, override: Override) -> tuple[Service | None, Backend | None]:
    service = next((s for s in document.services if s.name == override.service), None)
    backends = service.backends if service else ()
    return service, next((b for b in backends if b.endpoint == override.endpoint), None)


def _laid_over(service: Service, overrides: Iterable[Override]) -> Service:
    found: dict[str, list[Override]] = defaultdict(list)
    for override in overrides:
        found[override.endpoint].append(override)
    backends = []
    for backend in service.backends:
        for override in found.get(backend.endpoint, ()):
            backend = _apply(backend, override)
        backends.append(backend)
    return replace(service, backends=tuple(backends))


def _apply(backend: Backend, override: Override) -> Backend:
    if override.state is not None:
        backend = replace(backend, state=override.state)
    return backend if override.weight is None else replace(backend, weight=override.weight)


def _takes_away(override: Override) -> bool:
    """Whether it can only make fewer backends usable, which leaves any valid service valid: of fewer weights
    the sum is no larger and the common divisor no smaller."""
    return override.weight is None and override.state is not BackendState.ENABLED


def _is_valid(service: Service) -> bool:
    return not _problems(service)


def _problems(service: Service) -> list[str]:
    return [problem.message for problem in errors(validate_parsed({"": service}, alone=True))]


def _by_service(overrides: Iterable[Override]) -> dict[str, list[Override]]:
    found: dict[str, list[Override]] = defaultdict(list)
    for override in overrides:
        found[override.service].append(override)
    return found


def _sorted(overrides: Iterable[Override]) -> list[Override]:
    return sorted(
        overrides,
        key=lambda o: (o.service, o.address.version, int(o.address), o.port, str(o.state), o.weight or 0),
    )
