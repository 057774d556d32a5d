"""The operation policy in words: what an administrator reads is what the values say."""

from dataclasses import replace

import pytest

from balancer.domain.operation import Away, Confirm, OnDrift, OperationPolicy, Rehearse, describe_operation

DEFAULT = (
    "A change can only be approved once its ruleset was rehearsed and passed.",
    "A node goes back by itself unless the worker's checks confirm within 120 seconds.",
    "A node that is down holds a roll-out up.",
    "Going back to an earlier revision takes the same approval as any change.",
    "Operators may take backends out as long as a service keeps at least 1 usable backend, and move a"
    " weight by up to 50 %.",
    "Rollback drills run when somebody asks for one.",
    "A node whose rules somebody has changed puts them back at once.",
)


def test_the_default_is_the_careful_one() -> None:
    assert describe_operation(OperationPolicy()) == DEFAULT


@pytest.mark.parametrize(
    ("different", "at", "words"),
    [
        ({"rehearsal": Rehearse.OFF}, 0, "A change may be approved without a rehearsal."),
        (
            {"confirm": Confirm.MANUAL, "confirm_seconds": 60},
            1,
            "A node goes back by itself unless people confirm within 60 seconds.",
        ),
        (
            {"confirm": Confirm.BOTH},
            1,
            "A node goes back by itself unless the worker's checks or people confirm within 120 seconds.",
        ),
        (
            {"away": Away.SKIP},
            2,
            "A node that is down is left out of a roll-out and catches up when it returns.",
        ),
        ({"rollback_at_once": True}, 3, "An operator may go back to the previous revision at once."),
        (
            {"override_weight_percent": 0, "override_keep": 2},
            4,
            "Operators may take backends out as long as a service keeps at least 2 usable backends; weights"
            " are not theirs.",
        ),
        ({"drill_hours": 1}, 5, "A rollback drill runs on each node every 1 hour."),
        (
            {"on_drift": OnDrift.ASK},
            6,
            "A node whose rules somebody has changed says so, and waits until an operator acts.",
        ),
    ],
)
def test_each_value_is_told_in_its_own_sentence(different: dict[str, object], at: int, words: str) -> None:
    policy = replace(OperationPolicy(), **different)

    assert describe_operation(policy) == (*DEFAULT[:at], words, *DEFAULT[at + 1 :])
    assert policy.to_data() != OperationPolicy().to_data()
