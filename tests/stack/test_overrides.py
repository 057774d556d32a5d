"""An override on real kernels: at once on both flavours, through applies and a rollback, until one click."""

from django.contrib.auth.models import User
from django.test import Client

from balancer.domain.lifecycle import JOB_ACTIVE
from balancer.kernel.base import Flavour
from balancer.models import Job, LateReview, Node, Override
from balancer.ruleset.turns import without_phase
from balancer.workflow.deployments import apply_change
from balancer.workflow.late_reviews import open_late_reviews
from balancer.workflow.rollback import roll_back_to
from tests.cast import Site
from tests.documents import service_data
from tests.kernel.machine import Namespace, save
from tests.stack.machinery import Stack, eventually
from tests.stack.site import LEGACY, NFT, events, make_site, wait_for_end, wait_for_worker
from tests.stopwatch import Stopwatch

Places = dict[str, tuple[Namespace, Flavour]]
DRAINED, OTHER = "10.0.0.3:80", "10.0.0.4:80"
SECONDS = 5.0
"""Within which what an operator does is in every kernel; measured: below one."""


def chosen(place: tuple[Namespace, Flavour]) -> str:
    """The rules of a real kernel that choose a backend, as iptables-save prints them but for their turn."""
    inside, flavour = place
    with inside.entered():
        rules = (line for line in save(flavour).splitlines() if "-g LB-S-web:" in line)
        return "\n".join(map(without_phase, rules))


def is_chosen(endpoint: str, text: str) -> bool:
    return f"-g LB-S-web:{endpoint.replace(':', '-')}\n" in f"{text}\n"


def wait_for_choice(places: Places, *, without_first: bool, what: str, within: float) -> None:
    """Until every kernel chooses the other backend, and the first one or not."""

    def reached() -> bool:
        texts = [chosen(place) for place in places.values()]
        return all(is_chosen(OTHER, text) and is_chosen(DRAINED, text) is not without_first for text in texts)

    watch = Stopwatch()
    eventually(reached, what=f"{what} in every kernel")
    print(f"{what} ({without_first}) was in every kernel after {watch.seconds:.2f} s")
    assert watch.own <= within


def reaches_all(places: Places, *, drained: bool) -> None:
    wait_for_choice(places, without_first=drained, what="the override", within=SECONDS)
    eventually(lambda: not Job.objects.filter(state__in=JOB_ACTIVE).exists(), what="the end of the jobs")


def deploy(site: Site, round_: int) -> None:
    description = f"Round {round_}"
    deployment = wait_for_end(site.start(service_data("web", description=description)))
    assert deployment.state == "succeeded", deployment.error


def post(person: User, address: str, **fields: str) -> None:
    client = Client()
    client.force_login(person)
    assert client.post(address, fields).status_code == 302


def test_a_drained_backend_stays_drained_through_applies_and_a_rollback_until_one_click(stack: Stack) -> None:
    site = make_site("lb1", "lb2")
    places: Places = {"lb1": (Namespace(), Flavour.LEGACY), "lb2": (Namespace(), Flavour.NFT)}
    stack.worker("lb1", inside=places["lb1"][0], **LEGACY)
    stack.worker("lb2", inside=places["lb2"][0], **NFT)
    for node in places:
        wait_for_worker(node, stack=stack)
    deploy(site, 0)
    first = site.cluster.deployments.latest("pk").revision
    approved = {name: chosen(place) for name, place in places.items()}
    service = site.cluster.services.get(name="web")

    press = {"endpoint": DRAINED, "do": "draining", "reason": "disk is full"}
    post(site.operator, f"/balancer/service/{service.pk}/operate/", **press)
    reaches_all(places, drained=True)
    drained = {name: chosen(place) for name, place in places.items()}

    for round_ in range(1, 6):
        deploy(site, round_)
        assert {name: chosen(place) for name, place in places.items()} == drained, f"after apply {round_}"
    back = site.approve(roll_back_to(actor=site.operator, revision=first))
    assert wait_for_end(apply_change(actor=site.operator, change=back)).state == "succeeded"
    assert {name: chosen(place) for name, place in places.items()} == drained, "after the rollback"

    override = Override.objects.get()
    post(site.operator, f"/balancer/override/{override.pk}/lift/")
    reaches_all(places, drained=False)
    assert {name: chosen(place) for name, place in places.items()} == approved
    assert set(Node.objects.values_list("carried_overrides", "in_sync")) == {("", True)}
    assert [review.subject_id for review in open_late_reviews()] == [override.pk], (
        "the signature is still owed"
    )
    assert LateReview.objects.get().opened_by == site.operator
    assert events("worker.refused") == []
    for inside, _ in places.values():
        inside.close()
