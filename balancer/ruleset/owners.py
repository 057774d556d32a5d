"""Which service a rule is there for."""

import re
from collections import defaultdict
from collections.abc import Iterable

from balancer.domain.types import Service
from balancer.ruleset.names import backend_chain, limits_chain, refusal_chain, service_chain
from balancer.ruleset.reasons import Reason

_CHAIN = re.compile(r"(?<=\s)LB-[A-Z]-[A-Za-z0-9:._-]+")


def owners_of_rules(text: str, *, services: Iterable[Service]) -> tuple[str | None, ...]:
    """For each line of iptables-restore input, the service that it belongs to; None where it serves several.

    A service owns its chain, the chains that only its chain leads to, those of its backends, and the rules
    that lead to them.
    """
    lines = text.splitlines()
    owners = _owners_of_chains(lines, services=services)
    return tuple(_owner_of_line(line, owners) for line in lines)


def _owners_of_chains(lines: Iterable[str], *, services: Iterable[Service]) -> dict[str, str]:
    leads: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line.startswith("-A "):
            first, *rest = _CHAIN.findall(line) or [""]
            leads[first].extend(rest)
    owners = {}
    for service in services:
        waiting = [service_chain(service.name), limits_chain(service.name)]
        waiting += [refusal_chain(service.name, reason) for reason in Reason]
        # Nothing leads to a backend that gets no connections.
        waiting += [backend_chain(service.name, one.address, one.port) for one in service.backends]
        while waiting:
            chain = waiting.pop()
            if chain not in owners:
                owners[chain] = service.name
                waiting.extend(leads.get(chain, ()))
    return owners


def _owner_of_line(line: str, owners: dict[str, str]) -> str | None:
    """The last chain that is named decides: it is where the rule leads."""
    chain = line[1:].partition(" ")[0] if line.startswith(":LB-") else ""
    named = [chain] if chain else _CHAIN.findall(line)
    found = [owners[one] for one in named if one in owners]
    return found[-1] if found else None
