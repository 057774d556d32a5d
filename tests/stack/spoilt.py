"""Settings of a worker whose compiler is wrong: what it rehearses has one wrong share."""

from typing import Any

from balancer.lab.rehearsal import Rehearsal
from lbadmin.settings import *  # noqa: F403 - the settings, but for one
from tests.lab.spoil import spoil_rules, wrong_share

LBADMIN_REHEARSAL_FACTORY = "tests.stack.spoilt.make_spoilt"


def make_spoilt(*, flavour: str, driver: str) -> Any:
    from balancer.factories import make_rehearse

    right = make_rehearse(flavour=flavour, driver=driver)

    def rehearse(**options: Any) -> Rehearsal:
        return right(**options | {"rulesets": [spoil_rules(one, wrong_share) for one in options["rulesets"]]})

    return rehearse
