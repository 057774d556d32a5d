"""What an approval needs."""

from datetime import UTC, datetime, timedelta

import pytest

from balancer.domain.policy import ApprovalPolicy, describe_policy, is_critical

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("approvals", "critical_approvals", "plain", "critical"),
    [(0, 0, 0, 0), (0, 2, 0, 2), (1, 2, 1, 2), (3, 2, 3, 3), (2, 2, 2, 2)],
)
def test_a_critical_service_needs_as_many_approvals_or_more(
    approvals: int, critical_approvals: int, plain: int, critical: int
) -> None:
    policy = ApprovalPolicy(approvals=approvals, critical_approvals=critical_approvals)

    assert (policy.required(critical=False), policy.required(critical=True)) == (plain, critical)


def test_an_approval_lasts_until_its_hours_are_over_and_not_a_second_longer() -> None:
    policy = ApprovalPolicy(expire_hours=2)
    end = NOON + timedelta(hours=2)

    assert not policy.has_expired(at=NOON, now=end - timedelta(seconds=1))
    assert policy.has_expired(at=NOON, now=end)


def test_without_an_expiry_an_approval_counts_for_ever() -> None:
    assert not ApprovalPolicy().has_expired(at=NOON, now=NOON + timedelta(days=10_000))


@pytest.mark.parametrize(
    ("services", "critical"),
    [
        ([], False),
        ([None, {"name": "web"}], False),
        ([{"critical": False}], False),
        ([{"critical": True}, {"critical": False}], True),
        ([{"critical": False}, {"critical": True}], True),
        ([{"critical": True}, None], True),
    ],
)
def test_taking_the_mark_away_or_the_service_is_a_change_to_a_critical_service(
    services: list[dict[str, bool] | None], critical: bool
) -> None:
    assert is_critical(services) is critical


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (
            ApprovalPolicy(approvals=0, critical_approvals=0),
            "No approval is needed: one person may do it all.",
        ),
        (
            ApprovalPolicy(approvals=0),
            "A change needs no approval, one to a critical service two approvals.",
        ),
        (ApprovalPolicy(), "A change needs one approval, one to a critical service two approvals."),
        (ApprovalPolicy(approvals=2), "A change needs two approvals."),
        (
            ApprovalPolicy(approvals=2, groups=("Net", "Ops", "Security"), expire_hours=1),
            "A change needs two approvals, from members of Net, Ops or Security;"
            " an approval counts for 1 hour.",
        ),
        (
            ApprovalPolicy(approvals=3, groups=("Ops",), expire_hours=24),
            "A change needs three approvals, from members of Ops; an approval counts for 24 hours.",
        ),
    ],
)
def test_a_policy_is_told_in_a_sentence(policy: ApprovalPolicy, words: str) -> None:
    assert describe_policy(policy) == words


def test_every_part_of_a_policy_is_in_what_is_digested() -> None:
    different = [
        ApprovalPolicy(),
        ApprovalPolicy(approvals=3),
        ApprovalPolicy(critical_approvals=3),
        ApprovalPolicy(groups=("Ops",)),
        ApprovalPolicy(expire_hours=1),
    ]

    assert len({repr(policy.to_data()) for policy in different}) == len(different)
