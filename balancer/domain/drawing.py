"""The tables of `lifecycle`, drawn for the docs, so that the picture cannot differ from the code."""

from collections.abc import Iterable

from balancer.domain.lifecycle import (
    CHANGE_CLOSED,
    CHANGE_TRANSITIONS,
    JOB_ENDED,
    JOB_TRANSITIONS,
    REHEARSAL_ENDED,
    REHEARSAL_TRANSITIONS,
    ChangeState,
    JobState,
    RehearsalState,
)


def draw_changes() -> str:
    """The states of a change as a Mermaid state diagram."""
    steps = [(here, deed, there) for (here, deed), there in CHANGE_TRANSITIONS.items()]
    return _draw(steps, start=ChangeState.DRAFT, ends=sorted(CHANGE_CLOSED))


def draw_jobs() -> str:
    """The states of a node's job as a Mermaid state diagram."""
    steps = [(here, deed, there) for (here, deed), there in JOB_TRANSITIONS.items()]
    return _draw(steps, start=JobState.QUEUED, ends=sorted(JOB_ENDED))


def draw_rehearsals() -> str:
    """The states of a rehearsal as a Mermaid state diagram."""
    steps = [(here, deed, there) for (here, deed), there in REHEARSAL_TRANSITIONS.items()]
    return _draw(steps, start=RehearsalState.QUEUED, ends=sorted(REHEARSAL_ENDED))


def _draw(steps: Iterable[tuple[str, str, str]], *, start: str, ends: Iterable[str]) -> str:
    lines = ["stateDiagram-v2", f"    [*] --> {_name(start)}"]
    lines += [f"    {_name(here)} --> {_name(there)}: {deed}" for here, deed, there in steps]
    lines += [f"    {_name(end)} --> [*]" for end in ends]
    return "\n".join(lines) + "\n"


def _name(state: str) -> str:
    return str(state).replace("-", "_")
