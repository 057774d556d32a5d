"""The way back to what was live before, without an approval, where the policy of a cluster leaves it open."""

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.urls import URLPattern, path

from balancer.admin.site import actor_of, page_address, perform
from balancer.workflow import rollback


class WayBackPages:
    """Mixed into the admin of clusters."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.way_back_view)
        own = path("<int:cluster_id>/roll-back/", view, name="balancer_cluster_roll_back")
        return [own, *super().get_urls()]

    def way_back_view(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        cluster = self.find(request, str(cluster_id))
        if cluster is None:
            return self.answer_missing(request, str(cluster_id))
        return perform(
            request,
            lambda: rollback.roll_back_at_once(actor=actor_of(request), cluster=cluster),
            done="Rolling back. Every node reports below what it does.",
            then=lambda deployment: page_address(deployment.change),
            back=page_address(cluster),
        )
