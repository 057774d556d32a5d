"""A team and a cluster in the stack's database, with workers whose kernels are real."""

from typing import Any

from django.utils import timezone

from balancer.domain.codec import load_document
from balancer.kernel.base import DriverName, Flavour
from balancer.kernel.node import NodeKernel
from balancer.models import AuditEvent, Deployment, Node
from balancer.ruleset.compile import compile_document
from balancer.workflow.clusters import create_cluster, create_node
from balancer.workflow.revisions import live_revision
from tests.cast import Site, let_rehearsals_be, make_person
from tests.kernel.machine import Namespace
from tests.stack.machinery import Stack, eventually

LEGACY = {"LBADMIN_FLAVOUR": "legacy", "LBADMIN_DRIVER": "python-iptables"}
NFT = {"LBADMIN_FLAVOUR": "nft", "LBADMIN_DRIVER": "iptables-restore"}


def make_site(*nodes: str) -> Site:
    people = [
        make_person(name, role)
        for name, role in (("ann", "Editor"), ("bob", "Approver"), ("oli", "Operator"))
    ]
    cluster = create_cluster(actor=None, name="edge")
    let_rehearsals_be(cluster)
    for name in nodes:
        create_node(actor=None, cluster=cluster, name=name)
    # Some tests begin to apply before the workers start, so nobody calls their nodes down yet.
    Node.objects.update(last_seen=timezone.now())
    return Site(cluster=cluster, author=people[0], approver=people[1], operator=people[2])


def wait_for_worker(node: str, *, stack: Stack) -> None:
    """Until the worker has had its first tick: it is consuming, and its pool works."""
    eventually(lambda: Node.objects.get(name=node).facts_at, what=f"the start of the worker of {node}")


def wait_for_end(deployment: Deployment) -> Deployment:
    def ended() -> bool:
        deployment.refresh_from_db()
        return deployment.state != "running"

    eventually(ended, what="the end of the deployment")
    return deployment


def carries_live(site: Site, *, inside: Namespace, flavour: Flavour) -> bool:
    """Whether the kernel holds exactly the rules of the live revision, as the driver reads them."""
    site.cluster.refresh_from_db()
    document, _ = load_document(live_revision(site.cluster).document)
    assert document is not None
    with inside.entered():
        kernel = NodeKernel(flavour=flavour, driver=DriverName.IPTABLES_RESTORE)
        return kernel.compare(ruleset=compile_document(document)).in_sync


def events(action: str) -> list[dict[str, Any]]:
    return list(AuditEvent.objects.filter(action=action).order_by("pk").values_list("facts", flat=True))
