"""The states of a change, a deployment, a job and a rehearsal, and the deeds that lead from one to the next.

A deed that is not in the table cannot happen. The tables are the only place that says so: workflow asks
`next_state`, the console asks `deeds_from`.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class ChangeState(StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    APPROVED = "approved"
    REJECTED = "rejected"
    CHANGES_REQUESTED = "changes-requested"
    APPLYING = "applying"
    APPLIED = "applied"
    FAILED = "failed"
    DISCARDED = "discarded"


class ChangeDeed(StrEnum):
    EDIT = "edit"
    SUBMIT = "submit"
    WITHDRAW = "withdraw"
    APPROVE = "approve"
    REJECT = "reject"
    REQUEST_CHANGES = "request-changes"
    RECONSIDER = "reconsider"
    """What the approvals rested on is no longer there; it has to be reviewed again."""
    SCHEDULE = "schedule"
    """Let it be applied in a window of time to come."""
    APPLY = "apply"
    DECLARE_EMERGENCY = "emergency"
    """Apply it without waiting for anybody."""
    FINISH = "finish"
    FAIL = "fail"
    DISCARD = "discard"


class DeploymentState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ROLLED_BACK = "rolled-back"
    """A node went back by itself, since nobody had confirmed."""


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    UNCONFIRMED = "unconfirmed"
    """The kernel carries it, and the node's guard will undo it unless it is confirmed."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    """The node was down, and the policy lets a roll-out go on without it."""


class JobDeed(StrEnum):
    CLAIM = "claim"
    REQUEUE = "requeue"
    AWAIT = "await-confirm"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    SKIP = "skip"


class WindowState(StrEnum):
    WAITING = "waiting"
    REHEARSING = "rehearsing"
    STARTED = "started"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    MISSED = "missed"


class ClearingState(StrEnum):
    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"


class RehearsalState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PASSED = "passed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RehearsalDeed(StrEnum):
    CLAIM = "claim"
    REQUEUE = "requeue"
    PASS = "pass"
    FAIL = "fail"
    CANCEL = "cancel"


CHANGE_TRANSITIONS: Mapping[tuple[ChangeState, ChangeDeed], ChangeState] = MappingProxyType(
    {
        (ChangeState.DRAFT, ChangeDeed.EDIT): ChangeState.DRAFT,
        (ChangeState.DRAFT, ChangeDeed.SUBMIT): ChangeState.SUBMITTED,
        (ChangeState.DRAFT, ChangeDeed.DISCARD): ChangeState.DISCARDED,
        (ChangeState.SUBMITTED, ChangeDeed.WITHDRAW): ChangeState.DRAFT,
        (ChangeState.SUBMITTED, ChangeDeed.APPROVE): ChangeState.APPROVED,
        (ChangeState.SUBMITTED, ChangeDeed.REJECT): ChangeState.REJECTED,
        (ChangeState.SUBMITTED, ChangeDeed.REQUEST_CHANGES): ChangeState.CHANGES_REQUESTED,
        (ChangeState.SUBMITTED, ChangeDeed.RECONSIDER): ChangeState.SUBMITTED,
        (ChangeState.CHANGES_REQUESTED, ChangeDeed.EDIT): ChangeState.DRAFT,
        (ChangeState.CHANGES_REQUESTED, ChangeDeed.SUBMIT): ChangeState.SUBMITTED,
        (ChangeState.CHANGES_REQUESTED, ChangeDeed.WITHDRAW): ChangeState.DRAFT,
        (ChangeState.APPROVED, ChangeDeed.WITHDRAW): ChangeState.DRAFT,
        (ChangeState.APPROVED, ChangeDeed.APPROVE): ChangeState.APPROVED,
        (ChangeState.APPROVED, ChangeDeed.REJECT): ChangeState.REJECTED,
        (ChangeState.APPROVED, ChangeDeed.REQUEST_CHANGES): ChangeState.CHANGES_REQUESTED,
        (ChangeState.APPROVED, ChangeDeed.RECONSIDER): ChangeState.SUBMITTED,
        (ChangeState.APPROVED, ChangeDeed.SCHEDULE): ChangeState.APPROVED,
        (ChangeState.APPROVED, ChangeDeed.APPLY): ChangeState.APPLYING,
        (ChangeState.SUBMITTED, ChangeDeed.DECLARE_EMERGENCY): ChangeState.APPLYING,
        (ChangeState.APPROVED, ChangeDeed.DECLARE_EMERGENCY): ChangeState.APPLYING,
        (ChangeState.FAILED, ChangeDeed.DECLARE_EMERGENCY): ChangeState.APPLYING,
        (ChangeState.REJECTED, ChangeDeed.WITHDRAW): ChangeState.DRAFT,
        (ChangeState.APPLYING, ChangeDeed.FINISH): ChangeState.APPLIED,
        (ChangeState.APPLYING, ChangeDeed.FAIL): ChangeState.FAILED,
        (ChangeState.FAILED, ChangeDeed.APPLY): ChangeState.APPLYING,
        (ChangeState.FAILED, ChangeDeed.WITHDRAW): ChangeState.DRAFT,
        (ChangeState.FAILED, ChangeDeed.APPROVE): ChangeState.APPROVED,
        (ChangeState.FAILED, ChangeDeed.RECONSIDER): ChangeState.SUBMITTED,
    }
)

JOB_TRANSITIONS: Mapping[tuple[JobState, JobDeed], JobState] = MappingProxyType(
    {
        (JobState.QUEUED, JobDeed.CLAIM): JobState.RUNNING,
        (JobState.QUEUED, JobDeed.CANCEL): JobState.CANCELLED,
        (JobState.QUEUED, JobDeed.FAIL): JobState.FAILED,
        (JobState.QUEUED, JobDeed.SKIP): JobState.SKIPPED,
        (JobState.RUNNING, JobDeed.REQUEUE): JobState.QUEUED,
        (JobState.RUNNING, JobDeed.SUCCEED): JobState.SUCCEEDED,
        (JobState.RUNNING, JobDeed.FAIL): JobState.FAILED,
        (JobState.RUNNING, JobDeed.AWAIT): JobState.UNCONFIRMED,
        (JobState.UNCONFIRMED, JobDeed.SUCCEED): JobState.SUCCEEDED,
        (JobState.UNCONFIRMED, JobDeed.FAIL): JobState.FAILED,
    }
)

REHEARSAL_TRANSITIONS: Mapping[tuple[RehearsalState, RehearsalDeed], RehearsalState] = MappingProxyType(
    {
        (RehearsalState.QUEUED, RehearsalDeed.CLAIM): RehearsalState.RUNNING,
        (RehearsalState.QUEUED, RehearsalDeed.CANCEL): RehearsalState.CANCELLED,
        (RehearsalState.RUNNING, RehearsalDeed.REQUEUE): RehearsalState.QUEUED,
        (RehearsalState.RUNNING, RehearsalDeed.PASS): RehearsalState.PASSED,
        (RehearsalState.RUNNING, RehearsalDeed.FAIL): RehearsalState.FAILED,
        (RehearsalState.RUNNING, RehearsalDeed.CANCEL): RehearsalState.CANCELLED,
    }
)

CHANGE_OPEN = frozenset(
    {
        ChangeState.DRAFT,
        ChangeState.SUBMITTED,
        ChangeState.APPROVED,
        ChangeState.REJECTED,
        ChangeState.CHANGES_REQUESTED,
        ChangeState.APPLYING,
        ChangeState.FAILED,
    }
)
"""Someone still has something to do."""
CHANGE_CLOSED = frozenset({ChangeState.APPLIED, ChangeState.DISCARDED})
CHANGE_EDITABLE = frozenset({ChangeState.DRAFT, ChangeState.CHANGES_REQUESTED})
CHANGE_REVIEWED = frozenset({ChangeState.SUBMITTED, ChangeState.APPROVED, ChangeState.FAILED})
"""It carries a digest that votes are bound to, and nothing runs."""
CHANGE_IN_REVIEW = frozenset({ChangeState.SUBMITTED})
CHANGE_REHEARSABLE = CHANGE_REVIEWED | CHANGE_EDITABLE
"""What it proposes can be tried."""
CHANGE_APPLICABLE = frozenset({ChangeState.APPROVED, ChangeState.FAILED})
DEPLOYMENT_ACTIVE = frozenset({DeploymentState.RUNNING})
JOB_ACTIVE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.UNCONFIRMED})
JOB_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.SKIPPED})
JOB_PASSED = frozenset({JobState.SUCCEEDED, JobState.SKIPPED})
"""A roll-out goes on behind it."""
JOB_STOPPING = JOB_ENDED - JOB_PASSED - {JobState.CANCELLED}
"""A roll-out goes no further, and what it has changed is put back."""
WINDOW_ACTIVE = frozenset({WindowState.WAITING, WindowState.REHEARSING})
REHEARSAL_ACTIVE = frozenset({RehearsalState.QUEUED, RehearsalState.RUNNING})
REHEARSAL_ENDED = frozenset({RehearsalState.PASSED, RehearsalState.FAILED, RehearsalState.CANCELLED})
REHEARSAL_JUDGED = frozenset({RehearsalState.PASSED, RehearsalState.FAILED})


def next_state(*, state: ChangeState, deed: ChangeDeed) -> ChangeState | None:
    """The state after the deed, or None where the deed is not possible."""
    return CHANGE_TRANSITIONS.get((state, deed))


def next_job_state(*, state: JobState, deed: JobDeed) -> JobState | None:
    return JOB_TRANSITIONS.get((state, deed))


def next_rehearsal_state(*, state: RehearsalState, deed: RehearsalDeed) -> RehearsalState | None:
    return REHEARSAL_TRANSITIONS.get((state, deed))


def deeds_from(state: ChangeState) -> frozenset[ChangeDeed]:
    """What can be done with a change in this state, by whoever may."""
    return frozenset(deed for (start, deed) in CHANGE_TRANSITIONS if start is state)


def states_before(deed: ChangeDeed) -> frozenset[ChangeState]:
    """The states from which the deed is possible."""
    return frozenset(start for (start, found) in CHANGE_TRANSITIONS if found is deed)
