"""The operation policy of a cluster: its form for administrators."""

from dataclasses import fields

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from balancer.admin.site import actor_of, page_address
from balancer.domain.operation import OperationPolicy
from balancer.models import Cluster
from balancer.workflow import operation
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import ADMINISTER, may

NUMBERS = ("confirm_seconds", "override_weight_percent", "override_keep", "drill_hours")
CHOICES = ("rehearsal", "confirm", "canary", "away", "on_drift")


class OperationForm(forms.ModelForm):
    class Meta:
        model = Cluster
        fields = (
            *("rehearsal", "confirm", "confirm_seconds", "canary", "away", "rollback_at_once"),
            *("override_weight_percent", "override_keep", "drill_hours", "on_drift"),
        )
        widgets = {
            **{name: UnfoldAdminTextInputWidget(attrs={"inputmode": "numeric"}) for name in NUMBERS},
            **{name: UnfoldAdminSelectWidget for name in CHOICES},
            "rollback_at_once": UnfoldBooleanSwitchWidget,
        }

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.fields["canary"].queryset = self.instance.nodes.order_by("name")
        self.fields["canary"].empty_label = "The first by name"


class OperationPages:
    """Mixed into the admin of clusters."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.operation_view)
        own = path("<int:cluster_id>/operation/", view, name="balancer_cluster_operation")
        return [own, *super().get_urls()]

    def operation_view(self, request: HttpRequest, cluster_id: int) -> HttpResponse:
        cluster = self.find(request, str(cluster_id))
        if cluster is None:
            return self.answer_missing(request, str(cluster_id))
        if not may(actor=request.user, permission=ADMINISTER):
            messages.error(request, "Only an administrator can change the operation policy of a cluster.")
            return HttpResponseRedirect(page_address(cluster))
        form = OperationForm(request.POST if request.method == "POST" else None, instance=cluster)
        if request.method == "POST" and form.is_valid() and _save(request, form, key=cluster_id):
            return HttpResponseRedirect(page_address(cluster))
        # The form has put what was typed into its row; the page shows the row as it is.
        cluster = Cluster.objects.get(pk=cluster_id)
        return self.render(
            request,
            "operation.html",
            title=f"Operation policy of {cluster.name}",
            crumbs=[(cluster.name, page_address(cluster)), ("Operation policy", "")],
            cluster=cluster,
            form=form,
            back=page_address(cluster),
        )


def _save(request: HttpRequest, form: OperationForm, *, key: int) -> bool:
    values = form.cleaned_data
    try:
        saved = operation.update_operation(
            actor=actor_of(request),
            cluster=Cluster.objects.get(pk=key),
            operation=OperationPolicy(
                **{field.name: values[field.name] for field in fields(OperationPolicy)}
            ),
            canary=values["canary"],
        )
    except Refused as refusal:
        form.add_error(None, refusal.message)
        return False
    messages.success(request, f"The operation policy of {saved.name} was saved.")
    return True
