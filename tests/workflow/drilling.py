"""Asking for a rollback drill, for the tests of it."""

from django.contrib.auth.models import User

from balancer.models import Job, Node
from balancer.workflow.drills import start_drill
from tests.cast import Site


def node_of(site: Site, name: str = "lb1") -> Node:
    return Node.objects.select_related("cluster").get(cluster=site.cluster, name=name)


def start(site: Site, name: str = "lb1", actor: User | None = None) -> Job:
    return start_drill(actor=actor or site.operator, node=node_of(site, name))
