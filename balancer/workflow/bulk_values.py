"""What an edit of several services makes of one of them: JSON data in, JSON data out.

Most fields are replaced by the value. Of these only a part is named, and the rest is left as it is:

access.deny, access.allow   {"add": ["203.0.113.0/24"], "remove": ["198.51.100.7"]}
access.limits               {"connections_per_source": 20, "new_burst": None}; None: no limit
health                      {"interval": 10}
"""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from typing import Any

from balancer.domain.address_scalars import networks
from balancer.domain.health_laws import keys_used_by
from balancer.domain.merge import endpoint_of
from balancer.domain.problem import Problem
from balancer.domain.scalars import Invalid, InvalidEntries
from balancer.domain.types import AllDown, HealthKind
from balancer.workflow.documents import Data
from balancer.workflow.errors import Refused

LISTS = {"access.deny": "deny", "access.allow": "allow"}
MAX_ENTRIES = 500_000
"""Networks in the lists of all services that are edited together; each takes some 20 µs."""
LIMITS = "access.limits"
HEALTH = "health"
_MODES = {"source_nat.mode", "persistence.mode"}
_RATE, _BURST = "new_per_second_per_source", "new_burst"


def check_value(field: str, value: Any, *, services: Collection[Data | None]) -> Iterator[Problem]:
    """What is wrong with a value whatever the service; of the rest the services themselves tell.

    Refused("nothing") where it says nothing, and "invalid" where it is too much for one edit.
    """
    if field in {*LISTS, LIMITS, HEALTH} and not any(value.values() if field in LISTS else value):
        raise Refused("nothing", "All of it is to be left as it is. Say what is to be different.")
    if field in LISTS:
        held = [entry for one in services if one for entry in one["access"][LISTS[field]]]
        _refuse_too_many(len(held) + len(services) * len(value["add"]))
        yield from _check_entries(value, held=set(held))


def with_value(service: Data | None, *, field: str, value: Any, backend: str) -> Data | None:
    """The service with the value in it; None where it has no such backend."""
    edited = deepcopy(service)
    assert edited is not None
    head, _, rest = field.partition(".")
    if head == "backends":
        found = [one for one in edited["backends"] if endpoint_of(one) == backend]
        for one in found:
            one[rest] = value
        return edited if found else None
    if field == "source_nat.address":
        first, _, last = str(value).partition("-")
        pool = {"address_end": last.strip()} if last else {}
        edited[head] = {"mode": "snat", "address": first.strip(), **pool}
    elif field in _MODES:
        # What only the other mode takes goes with it; left there, it would be refused.
        edited[head] = edited[head] if edited[head]["mode"] == value else {rest: value}
    elif field in LISTS:
        edited[head][rest] = _with_entries(edited[head][rest], value)
    elif field == LIMITS:
        edited[head] = _with_limits(edited[head], value)
    elif field == HEALTH:
        _set_health(edited, value)
    elif rest:
        edited[head] = {**edited[head], rest: value}
    else:
        edited[head] = value
    return edited


def _refuse_too_many(entries: int) -> None:
    if entries > MAX_ENTRIES:
        raise Refused(
            "invalid",
            f"The lists of these services would hold {entries:,} networks together, and at most"
            f" {MAX_ENTRIES:,} can be edited at once. Choose fewer services.",
        )


def _check_entries(value: Mapping[str, list[Any]], *, held: Collection[str]) -> Iterator[Problem]:
    read = {}
    for part in ("add", "remove"):
        try:
            read[part] = [str(network) for network in networks(value[part])]
        except InvalidEntries as error:
            yield from (Problem(f"{part}[{index}]", code, said) for index, code, said in error.entries)
        except Invalid as error:
            yield Problem(part, error.code, f"The list {error.message}")
    for index, network in enumerate(read.get("remove", ())):
        if network in read.get("add", ()):
            yield Problem(f"remove[{index}]", "twice", f"{network} is to be added as well; decide on one.")
        elif network not in held:
            message = (
                f"None of these services has {network} in this list. A network is taken out as it is written"
                " there; one inside of a larger network has to be left out of that."
            )
            yield Problem(f"remove[{index}]", "unknown", message)


def _with_entries(held: list[str], value: Mapping[str, list[str]]) -> list[str]:
    added, removed = ([str(network) for network in networks(value[part])] for part in ("add", "remove"))
    gone = set(removed)
    return [entry for entry in held if entry not in gone] + added


def _with_limits(access: Data, limits: Mapping[str, Any]) -> Data:
    """Without a rate there is no burst."""
    access = access | limits
    if access.get(_RATE) is None and _BURST not in limits:
        access.pop(_BURST, None)
    return access


def _set_health(service: Data, settings: Mapping[str, Any]) -> None:
    """What the kind that was there had and the new one does not use goes with it, as in the form."""
    health = service["health"]
    kind = settings.get("kind", health["kind"])
    if kind != health["kind"] and kind in set(HealthKind):
        health = {key: value for key, value in health.items() if key in keys_used_by(HealthKind(kind))}
        if kind == HealthKind.NONE:
            service["all_down"] = str(AllDown.KEEP)
            service.pop("all_down_service", None)
            service.pop("healthy_min", None)
    service["health"] = {**health, **settings}
