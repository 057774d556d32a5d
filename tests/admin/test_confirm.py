"""Commit-confirm on the pages: the countdown and its button, and the red notes when a node went back."""

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from balancer.domain.types import Document
from balancer.models import Change, Cluster, Job, Node, Revision
from balancer.workflow.confirming import Bench, ConfirmProbe
from balancer.workflow.jobs import confirm_job
from tests.admin.conftest import Login, messages_of
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.ticking import Worker


def cut_off(document: Document, touched: frozenset[str], _: object) -> tuple[ConfirmProbe, ...]:
    return (ConfirmProbe("broker", False, "The broker does not answer: <timeout>."),)


@pytest.fixture
def waiting(site: Site) -> Job:
    """A deployment on one node that waits for a person."""
    Node.objects.filter(name="lb2").delete()
    site.deploy(service_data("web"))
    Cluster.objects.update(confirm="both", confirm_seconds=60)
    job = site.start(service_data("web", port=81)).jobs.get()
    site.run(job, confirm=cut_off)
    job.refresh_from_db()
    return job


def pages(login: Login, user: User, job: Job) -> dict[str, str]:
    client = login(user)
    addresses = {
        "change": reverse("admin:balancer_change_change", args=[job.deployment.change_id]),
        "node": reverse("admin:balancer_node_change", args=[job.node_id]),
        "dashboard": reverse("admin:index"),
    }
    return {name: client.get(address).content.decode() for name, address in addresses.items()}


def confirm(login: Login, user: User, job: Job) -> Any:
    address = reverse("admin:balancer_change_confirm", args=[job.deployment.change_id])
    return login(user).post(address, follow=True)


def test_the_page_counts_down_says_which_check_failed_and_offers_the_confirm(
    login: Login, site: Site, waiting: Job
) -> None:
    for user, offered in ((site.operator, True), (site.author, False)):
        page = pages(login, user, waiting)["change"]
        assert "Not confirmed yet: in " in page
        assert "Not confirmed yet</span>" in page
        assert "<strong>Failed:</strong> The broker does not answer: &lt;timeout&gt;." in page
        assert "Read back, the kernel carries revision 2." in page
        assert ("Confirm revision 2" in page) is offered


def test_the_button_confirms_and_the_worker_makes_it_final(login: Login, site: Site, waiting: Job) -> None:
    response = confirm(login, site.operator, waiting)

    assert "makes it final" in messages_of(response)
    page = response.content.decode()
    assert "operator has confirmed; the node makes it final." in page
    assert "Confirm revision 2" not in page
    bench = Bench(kernel=site.kernels["lb1"], guard=site.guard("lb1"), confirm=cut_off, clock=timezone.now)
    confirm_job(job_id=str(waiting.pk), node_name="lb1", bench=bench)
    assert Change.objects.get(pk=waiting.deployment.change_id).state == "applied"
    assert "operator</span> confirmed it" in pages(login, site.author, waiting)["change"]


def test_who_may_not_confirm_is_refused_in_words(login: Login, site: Site, waiting: Job) -> None:
    assert "may not apply changes" in messages_of(confirm(login, site.author, waiting))
    waiting.refresh_from_db()
    assert waiting.confirmed_by is None


def test_a_node_that_went_back_is_shown_loudly_until_it_takes_the_next_deployment(
    login: Login, site: Site, waiting: Job
) -> None:
    site.guard("lb1").advance(100)
    Worker(site, confirm=cut_off).tick()

    for page in pages(login, site.author, waiting).values():
        assert "lb1 went back by itself." in page
        assert "Revision 2 was not confirmed within 60 seconds" in page
        assert "The broker does not answer: &lt;timeout&gt;." in page
        assert 'role="alert"' in page
    client = login(site.author)
    assert "Rolled back" in client.get(reverse("admin:balancer_revision_changelist")).content.decode()
    revision = Revision.objects.get(number=2)
    assert (
        "Rolled back"
        in client.get(reverse("admin:balancer_revision_change", args=[revision.pk])).content.decode()
    )

    Worker(site).tick()
    site.finish(site.start(service_data("web", port=82)))

    for page in pages(login, site.author, waiting).values():
        assert "went back by itself." not in page


def test_a_node_without_a_guard_says_so(login: Login, site: Site, waiting: Job) -> None:
    worker = Worker(site, confirm=cut_off)
    worker.tick()
    assert "<dt>Guard</dt><dd>runs</dd>" in pages(login, site.author, waiting)["node"]

    site.guard("lb1").alive = False
    worker.tick()

    assert "guard does not run, so nothing can be applied to it" in pages(login, site.author, waiting)["node"]
