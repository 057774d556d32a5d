"""Back through the whole workflow on a real kernel: the rules are those of then, to the byte.

But for the turn of a round robin: iptables-legacy goes on at another backend after each commit.
"""

import os
import random

import pytest
from django.contrib.auth.models import User

from balancer.kernel.base import Flavour
from balancer.kernel.node import NodeKernel
from balancer.models import Revision
from balancer.ruleset.turns import without_phase
from balancer.workflow.clusters import create_cluster, create_node
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import delete_service
from balancer.workflow.revisions import live_revision
from balancer.workflow.rollback import roll_back_to
from tests.cast import Site, let_rehearsals_be
from tests.documents import Data, backend_data, service_data
from tests.kernel.conftest import KINDS
from tests.kernel.machine import Namespace, save

REVISIONS = 50 if os.environ.get("LBADMIN_CAMPAIGN") else 5
"""In a campaign as many as the requirement names."""
NAMES = ("dns", "mail", "shop", "web")


@pytest.fixture(params=KINDS, ids=[f"{flavour}-{driver}" for flavour, driver in KINDS])
def one(
    request: pytest.FixtureRequest, namespace: Namespace, author: User, approver: User, operator: User
) -> Site:
    """A cluster with one node, which is the namespace that the test stands in."""
    flavour, driver = request.param
    cluster = create_cluster(actor=None, name="edge")
    let_rehearsals_be(cluster)
    create_node(actor=None, cluster=cluster, name="lb1")
    kernels = {"lb1": NodeKernel(flavour=flavour, driver=driver)}
    site = Site(cluster=cluster, author=author, approver=approver, operator=operator, kernels=kernels)
    site.see_nodes()
    return site


def test_whatever_revision_it_goes_back_to_the_kernels_text_is_the_one_that_was_recorded_then(
    one: Site, request: pytest.FixtureRequest
) -> None:
    flavour, dice = request.node.callspec.params["one"][0], random.Random(7)
    texts: dict[int, str] = {}
    while len(texts) < REVISIONS:
        revision = deploy_something(one, dice)
        texts[revision.number] = own_text(flavour)
    wanted = list(texts)
    dice.shuffle(wanted)

    for number in wanted:
        revision = Revision.objects.get(cluster=one.cluster, number=number)
        if live_revision(one.cluster).document != revision.document:
            change = roll_back_to(actor=one.operator, revision=revision)
            back = one.finish(apply_change(actor=one.operator, change=one.approve(change)))
            assert (back.document, back.rulesets) == (revision.document, revision.rulesets)
        assert own_text(flavour) == texts[number], number


def deploy_something(site: Site, dice: random.Random) -> Revision:
    """Up to four services in other words than before; now and then one goes."""
    live = sorted(site.cluster.services.values_list("name", flat=True))
    chosen = {
        name: random_service(name, number, dice) for number, name in enumerate(NAMES) if dice.random() < 0.6
    }
    change = site.change(*(chosen.values() or [random_service("web", 3, dice)]))
    for name in live:
        if name not in chosen and dice.random() < 0.3:
            delete_service(actor=site.author, cluster=site.cluster, change=change, name=name)
    return site.finish(apply_change(actor=site.operator, change=site.approve(change)))


def random_service(name: str, number: int, dice: random.Random) -> Data:
    backends = [
        backend_data(
            f"10.0.{number}.{last}",
            port=dice.choice([80, 8080]),
            weight=dice.randint(1, 10),
            state=dice.choice(["enabled", "enabled", "draining", "disabled"]),
        )
        for last in dice.sample(range(2, 250), dice.randint(0, 6))
    ]
    return service_data(
        name,
        interface=dice.choice(["eth0", "eth1"]),
        protocol=dice.choice(["tcp", "udp"]),
        port=1000 * number + dice.randint(1, 999),
        scheduler=dice.choice(["round-robin", "random"]),
        source_nat={"mode": dice.choice(["masquerade", "none"])},
        backends=backends,
    )


def own_text(flavour: Flavour) -> str:
    """What the kernel holds of ours, as iptables-save prints it, without counters nor turns."""
    return "\n".join(without_phase(line) for line in save(flavour).splitlines() if "LB-" in line)
