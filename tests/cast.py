"""The people and the machines of the tests: an author, an approver, an operator, a stranger; a cluster with
two nodes whose kernels are kept in memory; and history that a test database may forget."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import TransactionTestCase
from django.utils import timezone

from balancer.domain.lifecycle import JobState
from balancer.kernel.fake import FakeKernel
from balancer.kernel.guard_fake import FakeGuard
from balancer.models import Change, Cluster, Deployment, Job, Revision, history
from balancer.models.roles import install_roles
from balancer.ruleset.parse import Snapshot
from balancer.workflow.approvals import approve_change
from balancer.workflow.clusters import create_cluster, create_node
from balancer.workflow.deployments import apply_change
from balancer.workflow.drafts import SavedDraft, save_draft
from balancer.workflow.editing import open_change
from balancer.workflow.jobs import run_job
from balancer.workflow.submissions import submit_change
from tests.documents import Data, service_data

PASSWORD = "correct horse battery staple"


def make_person(name: str, *roles: str, superuser: bool = False, password: str | None = None) -> User:
    """An account of the console. Without a password it can only be logged in by force, which is fast."""
    user = User.objects.create_user(name, password=password, is_staff=True, is_superuser=superuser)
    user.groups.set(Group.objects.filter(name__in=roles))
    assert user.groups.count() == len(roles)
    return user


@pytest.fixture
def author(db: None) -> User:
    return make_person("author", "Editor")


@pytest.fixture
def approver(db: None) -> User:
    return make_person("approver", "Approver")


@pytest.fixture
def operator(db: None) -> User:
    return make_person("operator", "Operator")


@pytest.fixture
def viewer(db: None) -> User:
    return make_person("viewer", "Viewer")


@pytest.fixture
def administrator(db: None) -> User:
    return make_person("administrator", "Administrator")


@pytest.fixture
def superuser(db: None) -> User:
    return make_person("superuser", superuser=True)


@pytest.fixture
def stranger(db: None) -> User:
    """Has an account and no role."""
    return make_person("stranger")


@dataclass
class Site:
    """A cluster, kernels in memory for its nodes, and the way of a change through all hands."""

    cluster: Cluster
    author: User
    approver: User
    operator: User
    kernels: dict[str, FakeKernel] = field(default_factory=dict)
    guards: dict[str, FakeGuard] = field(default_factory=dict)

    def save(
        self, name: str = "web", *, by: User | None = None, original: str | None = None, **fields: Any
    ) -> SavedDraft:
        """Save a service as a draft, which must be possible."""
        data = service_data(name, **fields)
        saved = save_draft(actor=by or self.author, cluster=self.cluster, data=data, original_name=original)
        assert saved.saved, saved.problems
        return saved

    def change(self, *services: Data, title: str = "A change") -> Change:
        """A draft change with these services in it; those that are live are modified."""
        change = open_change(actor=self.author, cluster=self.cluster, title=title)
        live = set(self.cluster.services.values_list("name", flat=True))
        for data in services:
            original = data["name"] if data["name"] in live else None
            saved = save_draft(
                actor=self.author, cluster=self.cluster, change=change, data=data, original_name=original
            )
            assert saved.saved, saved.problems
        return change

    def approved(self, *services: Data, title: str = "A change") -> Change:
        return self.approve(self.change(*services, title=title))

    def approve(self, change: Change) -> Change:
        submitted = submit_change(actor=change.author, change=change)
        return approve_change(
            actor=self.approver, change=submitted, digest=submitted.digest, password_at=timezone.now()
        )

    def start(self, *services: Data) -> Deployment:
        """A deployment with its jobs queued."""
        return apply_change(actor=self.operator, change=self.approved(*services))

    def deploy(self, *services: Data) -> Revision:
        """The services, live on every node."""
        return self.finish(self.start(*services))

    def finish(self, deployment: Deployment) -> Revision:
        for job in deployment.jobs.filter(state=JobState.QUEUED).order_by("position"):
            assert self.run(job) is JobState.SUCCEEDED
        self.cluster.refresh_from_db()
        return deployment.revision

    def see_nodes(self, *names: str, at: datetime | None = None) -> None:
        """The workers of these nodes (of all) were heard of just now; a node that is down begins nothing."""
        nodes = self.cluster.nodes.filter(name__in=names) if names else self.cluster.nodes.all()
        nodes.update(last_seen=at or timezone.now())

    def run(self, job: Job, **options: Any) -> JobState | None:
        name = options.pop("node_name", job.node.name)
        kernel = options.pop("kernel", self.kernels.get(name))
        guard = options.pop("guard", None) or self.guard(name)
        if isinstance(guard, FakeGuard):
            options.setdefault("pause", guard.advance)
        return run_job(
            job_id=str(job.pk), node_name=name, kernel=kernel, guard=guard, identity="test:1:1", **options
        )

    def guard(self, node: str) -> FakeGuard:
        """The node's guard, over the kernel that the node has now."""
        found = self.guards.setdefault(node, FakeGuard())
        found.kernel = self.kernels.get(node)
        return found

    def own_rules(self, node: str) -> dict[str, dict[str, tuple[str, ...]]]:
        return own_rules(self.kernels[node].snapshot)


def own_rules(snapshot: Snapshot) -> dict[str, dict[str, tuple[str, ...]]]:
    """Table -> our chain -> rules."""
    return {
        name: {chain: rules for chain, rules in table.chains.items() if chain.startswith("LB-")}
        for name, table in snapshot.tables.items()
    }


@pytest.fixture
def site(author: User, approver: User, operator: User) -> Site:
    cluster = create_cluster(actor=None, name="edge")
    let_rehearsals_be(cluster)
    for name in ("lb1", "lb2"):
        create_node(actor=None, cluster=cluster, name=name)
    kernels = {"lb1": FakeKernel(), "lb2": FakeKernel()}
    site = Site(cluster=cluster, author=author, approver=approver, operator=operator, kernels=kernels)
    site.see_nodes()
    return site


def let_rehearsals_be(cluster: Cluster, *, rehearsal: str = "off") -> None:
    """Approve without a rehearsal; "required" is for the tests that are about them."""
    Cluster.objects.filter(pk=cluster.pk).update(rehearsal=rehearsal)
    cluster.refresh_from_db()


@pytest.fixture(scope="session", autouse=True)
def flush_past_the_triggers() -> Iterator[None]:
    """After a test with real commits Django empties every table, which our triggers refuse, roles and all."""
    flush = TransactionTestCase._fixture_teardown

    def flush_and_restore(self: TransactionTestCase) -> None:
        history.uninstall(connection=connection)
        flush(self)
        history.install(connection=connection)
        install_roles(apps=apps, alias="default")

    patch = pytest.MonkeyPatch()
    patch.setattr(TransactionTestCase, "_fixture_teardown", flush_and_restore)
    yield
    patch.undo()
