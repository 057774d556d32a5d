"""What a rehearsal sends to whom, and what its statistics are worth: pure, so it runs everywhere."""

from bisect import bisect
from fractions import Fraction

import pytest

from balancer.lab.errors import LabError
from balancer.lab.judge import WRONG_BY, binomial_p_value, choose_count, needed_connections
from balancer.lab.rehearsal import Limits
from balancer.lab.sample import draw_sample, fit_lab
from balancer.ruleset.schedulers import promised_shares
from tests.documents import backend_data, document, service_data


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(1, 4), Fraction(1, 10)])
def test_a_share_wrong_by_a_quarter_is_found_99_times_of_100_and_a_right_one_never_blamed(
    share: Fraction,
) -> None:
    from scipy.stats import binom  # here, as in tests/chance.py

    chance = 1e-6 / 10
    count = needed_connections(share=share, chance=chance)
    mean = int(count * share)

    def is_blamed(measured: int) -> bool:
        return binomial_p_value(measured=measured, count=count, share=share) < chance

    few = bisect(range(mean), False, key=lambda k: not is_blamed(k))
    many = mean + bisect(range(mean, count + 1), False, key=is_blamed)

    def blame(true: Fraction) -> float:
        return float(binom.cdf(few - 1, count, float(true)) + binom.sf(many - 1, count, float(true)))

    assert blame(share * (1 + WRONG_BY)) > 0.985
    assert blame(share * (1 - WRONG_BY)) > 0.985
    assert 0 < blame(share) <= chance


def test_of_many_services_the_same_fair_sample_is_drawn_again_and_again() -> None:
    kinds = [{"protocol": p, "scheduler": s} for p in ("tcp", "udp") for s in ("round-robin", "random")]
    many = [service_data(f"s{n:03}", port=100 + n, **kinds[0 if n % 50 else n // 50]) for n in range(200)]
    one = document(*many)
    limits = Limits(touched=8, probed=6)
    touched = {f"s{n:03}" for n in range(0, 200, 2)}
    sample = draw_sample(document=one, touched=touched, limits=limits)
    assert sample == draw_sample(document=one, touched=touched, limits=limits)
    assert (len(sample.measured), len(sample.probed)) == (8, 6)
    assert {s.name for s in sample.measured} <= touched
    # The three services of rare kinds are in it beside the 197 of the common one.
    assert {(s.protocol, s.scheduler) for s in sample.measured} == {
        (k["protocol"], k["scheduler"]) for k in kinds
    }
    assert {o.reason for o in sample.omitted} == {"not in the sample"}
    assert len(sample.omitted) == 200 - 8 - 6


def test_the_lab_keeps_out_of_the_documents_networks() -> None:
    one = document(service_data(address="198.18.0.1", backends=[backend_data("198.19.0.9")]))
    fit = fit_lab(document=one, services=one.services)
    assert str(fit.lab["clients"]) == "100.64.0.0/24"
    taken = [backend_data(f"{block}.1") for block in ["198.18.0", "198.19.0"]]
    taken += [backend_data(f"100.{n}.0.1") for n in range(64, 128)]
    full = document(service_data(backends=taken))
    with pytest.raises(LabError, match="so it cannot be rehearsed"):
        fit_lab(document=full, services=full.services)


def test_services_that_the_lab_cannot_reach_are_named() -> None:
    one = document(service_data("inner", interface="lo"), service_data("web"))
    sample = draw_sample(document=one, touched=None, limits=Limits())
    assert [(o.name, o.reason) for o in sample.omitted] == [("inner", "the lab cannot have an interface lo")]


@pytest.mark.parametrize(
    ("scheduler", "backends", "measured", "count"),
    [
        ("round-robin", 4, 1, 400),
        ("round-robin", 7, 1, 406),
        ("random", 1, 1, 400),
        ("random", 4, 1, 2890),
        ("random", 4, 60, 1000),
        ("random", 4, 600, 400),
        ("random", 40, 1, 10_000),
    ],
)
def test_a_service_gets_whole_cycles_or_what_chance_takes_within_the_limits(
    scheduler: str, backends: int, measured: int, count: int
) -> None:
    several = [backend_data(f"10.0.0.{last}") for last in range(3, 3 + backends)]
    (one,) = document(service_data(scheduler=scheduler, backends=several)).services
    shares = promised_shares(one)
    assert (
        choose_count(service=one, shares=shares, chance=1e-6 / backends, limits=Limits(), measured=measured)
        == count
    )
