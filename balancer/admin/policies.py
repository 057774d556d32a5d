"""The approval policy of a cluster: in words on its page and in the list, and its form for administrators."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import Group
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from unfold.decorators import display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextInputWidget

from balancer.admin.nodes import ClusterAdmin
from balancer.admin.site import actor_of, page_address
from balancer.domain.policy import describe_policy
from balancer.models import Cluster
from balancer.workflow import policies
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import ADMINISTER, may

ALONE = "One person may write, submit and apply a change without anybody else having seen it."


class PolicyForm(forms.ModelForm):
    class Meta:
        model = Cluster
        fields = ("approvals", "critical_approvals", "approver_groups", "approvals_expire_hours")
        labels = {
            "approvals": "Approvals",
            "critical_approvals": "Approvals for critical services",
            "approver_groups": "Roles whose approvals count",
            "approvals_expire_hours": "Approvals expire after (hours)",
        }
        widgets = {
            "approvals": UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}),
            "critical_approvals": UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}),
            "approvals_expire_hours": UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}),
            "approver_groups": UnfoldAdminCheckboxSelectMultipleWidget,
        }


admin.site.unregister(Cluster)


@admin.register(Cluster)
class PolicedClusterAdmin(ClusterAdmin):
    """The pages of clusters, with what an approval needs there."""

    list_display = (*ClusterAdmin.list_display, "show_policy")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.policy_view)
        own = path("<int:cluster_id>/policy/", view, name="balancer_cluster_policy")
        return [own, *super().get_urls()]

    def render(self, request: HttpRequest, template: str, **context: Any) -> HttpResponse:
        cluster = context.get("cluster")
        if isinstance(cluster, Cluster):
            words = {"policy": describe_policy(cluster.policy), "alone": alone_in(cluster)}
            context = {**words, **context}
        return super().render(request, template, **context)

    def policy_view(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        cluster = self.find(request, str(cluster_id))
        if cluster is None:
            return self.answer_missing(request, str(cluster_id))
        if not may(actor=request.user, permission=ADMINISTER):
            messages.error(request, "Only an administrator can change the approval policy of a cluster.")
            return HttpResponseRedirect(page_address(cluster))
        form = PolicyForm(request.POST if request.method == "POST" else None, instance=cluster)
        if request.method == "POST" and form.is_valid() and _save(request, form, key=cluster_id):
            return HttpResponseRedirect(page_address(cluster))
        # The form has put what was typed into its row; the page shows the row as it is.
        cluster = Cluster.objects.get(pk=cluster_id)
        return self.render(
            request,
            "policy.html",
            title=f"Approval policy of {cluster.name}",
            crumbs=[(cluster.name, page_address(cluster)), ("Approval policy", "")],
            cluster=cluster,
            form=form,
            back=page_address(cluster),
        )

    @display(description="Approvals")
    def show_policy(self, row: Cluster) -> str:
        critical = max(row.approvals, row.critical_approvals)
        return str(row.approvals) if critical == row.approvals else f"{row.approvals}, critical {critical}"


def alone_in(cluster: Cluster) -> str:
    """A warning where one person may do it all; empty where it takes two."""
    if cluster.approvals > 0:
        return ""
    return ALONE if cluster.critical_approvals == 0 else f"{ALONE} Only critical services need somebody else."


def _save(request: HttpRequest, form: PolicyForm, *, key: int) -> bool:
    values = form.cleaned_data
    groups: list[Group] = list(values["approver_groups"])
    try:
        saved = policies.update_policy(
            actor=actor_of(request),
            cluster=Cluster.objects.get(pk=key),
            approvals=values["approvals"],
            critical_approvals=values["critical_approvals"],
            groups=groups,
            expire_hours=values["approvals_expire_hours"],
        )
    except Refused as refusal:
        form.add_error(None, refusal.message)
        return False
    messages.success(request, f"The approval policy of {saved.name} was saved. Open changes are told of it.")
    if alone_in(saved):
        messages.warning(request, alone_in(saved))
    return True
