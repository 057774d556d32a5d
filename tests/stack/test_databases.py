"""Two databases, one behaviour: what constraints, locks and triggers promise holds on both."""

import os
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from django.db import IntegrityError, connection

from balancer.kernel.base import Receipt
from balancer.kernel.fake import FakeKernel
from balancer.models import AuditEvent, Deployment, Job, Node, Revision
from balancer.models.history import APPEND_ONLY_TABLES
from balancer.workflow.deployments import apply_change
from balancer.workflow.errors import Refused
from balancer.workflow.revisions import live_revision
from tests.documents import service_data
from tests.stack.machinery import ROOT, Stack, eventually
from tests.stack.site import make_site
from tests.stack.together import AT_ONCE, at_once, both_databases, tick

OF_DATABASES = [
    f"tests/workflow/test_{name}"
    for name in (
        *("audit.py", "audit_chain.py", "audit_migration.py", "deployments.py", "jobs.py"),
        "audit_verify.py::test_the_first_bad_event_is_named",
        "rollout.py::test_a_node_does_not_begin_before_those_in_front_of_it_have_succeeded",
        "counters.py::test_a_clock_that_was_wrong_for_a_day_stops_nothing_once_it_is_right",
        "counters.py::test_a_day_old_slices_become_coarse_and_a_month_old_ones_go",
        "windows.py::test_of_several_workers_one_starts_it",
    )
]
"""They rest on locks, constraints, triggers, migrations and on bytes that come back as they were."""


@both_databases
def test_of_many_who_apply_at_once_one_does(stack: Stack) -> None:
    site = make_site("lb1")
    changes = [site.approved(service_data(f"s{i}", port=1000 + i)) for i in range(AT_ONCE)]

    results = at_once(*(lambda c=c: apply_change(actor=site.operator, change=c) for c in changes))

    refusals = [result.code for result in results if isinstance(result, Refused)]
    assert refusals == ["busy"] * (AT_ONCE - 1)
    assert Deployment.objects.filter(state="running").count() == 1
    assert Revision.objects.filter(number__gt=0).count() == 1
    assert AuditEvent.objects.filter(action="deployment.started.refused").count() == AT_ONCE - 1


@both_databases
def test_of_many_who_apply_the_same_change_at_once_one_does(stack: Stack) -> None:
    site = make_site("lb1")
    change = site.approved(service_data("web"))

    results = at_once(*[lambda: apply_change(actor=site.operator, change=change)] * AT_ONCE)

    assert sum(isinstance(result, Deployment) for result in results) == 1


@both_databases
def test_of_many_who_claim_a_job_at_once_one_runs_it(stack: Stack) -> None:
    site = make_site("lb1")
    runs: list[str] = []

    class Counting(FakeKernel):
        def sync(self, **arguments: Any) -> Receipt:
            runs.append(arguments["ruleset"].family)
            return super().sync(**arguments)

    job = site.start(service_data("web")).jobs.get()

    at_once(*[lambda: site.run(Job.objects.get(pk=job.pk), kernel=Counting())] * AT_ONCE)

    assert runs == ["ipv4", "ipv6"]
    assert Job.objects.get().state == "succeeded"


@both_databases
def test_workers_that_all_press_on_at_once_go_one_after_the_other_and_end_the_deployment_once(
    stack: Stack,
) -> None:
    site = make_site(*[f"lb{i}" for i in range(AT_ONCE)])
    deployment = site.start(service_data("web"))

    def press_on(job: Job) -> None:
        eventually(lambda: site.run(job, kernel=FakeKernel()), what=f"the turn of {job.node}")

    at_once(*(lambda j=job: press_on(j) for job in deployment.jobs.select_related("node")))

    ended = list(deployment.jobs.order_by("position"))
    assert all(later.claimed_at >= earlier.finished_at for earlier, later in pairwise(ended))
    assert {job.attempts for job in ended} == {1}
    assert live_revision(site.cluster) == deployment.revision
    assert AuditEvent.objects.filter(action="deployment.succeeded").count() == 1
    assert Deployment.objects.get().state == "succeeded"


@both_databases
def test_nodes_that_converge_while_somebody_applies_get_in_nobodys_way(stack: Stack) -> None:
    names = [f"lb{i}" for i in range(AT_ONCE - 1)]
    site = make_site(*names)
    site.kernels = {name: FakeKernel() for name in names}
    site.deploy(service_data("web"))
    for round_number in range(5):
        Node.objects.update(carried_revision=None)
        change = site.approved(service_data("web", description=str(round_number)))

        results = at_once(
            lambda change=change: apply_change(actor=site.operator, change=change),
            *(lambda name=name: tick(name, kernel=site.kernels[name]) for name in names),
        )

        assert isinstance(results[0], Deployment) or results[0].code == "busy"
        for deployment in Deployment.objects.filter(state="running"):
            site.finish(deployment)
        assert not Job.objects.filter(state__in=["queued", "running"]).exists()


@pytest.mark.parametrize("table", sorted(APPEND_ONLY_TABLES))
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_truncate_does_not_get_past_the_triggers(stack: Stack, table: str) -> None:
    with pytest.raises(IntegrityError), connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table} CASCADE")


def test_the_workflow_tests_pass_on_postgresql(stack: Stack, postgresql_of_tests: str) -> None:
    """Those of tests/workflow that rest on what a database does; all of them in a campaign.

    The fast tier runs them on SQLite. The others ask the same functions for more cases.
    """
    env = stack.env | {"DATABASE_URL": postgresql_of_tests}
    # A second process would migrate a database of its own, which the chosen ones are not worth.
    chosen = ["tests/workflow", "-n", "2"] if os.environ.get("LBADMIN_CAMPAIGN") else OF_DATABASES
    command = [sys.executable, "-m", "pytest", *chosen, "-q", "--reuse-db", "-p", "no:cacheprovider"]

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)

    assert done.returncode == 0, done.stdout[-6000:]
    assert "postgresql" in connection_vendor(env)


def connection_vendor(env: dict[str, str]) -> str:
    code = "import django; django.setup(); from django.db import connection; print(connection.vendor)"
    env = env | {"DJANGO_SETTINGS_MODULE": "lbadmin.settings"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout
