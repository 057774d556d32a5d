"""The document of a cluster as JSON: in, as drafts, after a look at what would differ; and out, as a file."""

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldBooleanWidget

from balancer.admin.bulk_pages import answer_saved, is_to_be_saved
from balancer.admin.editing_pages import refuse_drafting
from balancer.admin.plans import describe_plan
from balancer.admin.site import actor_of, list_address, read_key
from balancer.models import Cluster, Service
from balancer.workflow import bulk, editing, queries
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import DRAFT, may

MAX_BYTES = 2_000_000


class ImportForm(forms.Form):
    cluster = forms.ModelChoiceField(
        Cluster.objects.order_by("name"),
        empty_label=None,
        widget=UnfoldAdminSelectWidget,
        error_messages={"invalid_choice": "There is no such cluster; choose one of the list."},
    )
    text = forms.CharField(
        label="Document",
        required=False,
        strip=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 14, "spellcheck": "false", "class": "lb-mono"}),
        help_text='JSON, such as {"services": [{"name": "web", "interface": "eth0", "protocol": "tcp",'
        ' "port": 80, "backends": [{"address": "10.0.0.3"}]}]}.',
    )
    file = forms.FileField(
        label="Or a file",
        required=False,
        allow_empty_file=True,
        max_length=None,
        widget=forms.FileInput(attrs={"accept": ".json,application/json", "class": "lb-file"}),
        help_text="UTF-8, at most 2 MB. It takes the place of the text.",
    )
    replace = forms.BooleanField(
        label="Services that are not in it are to go",
        required=False,
        widget=UnfoldBooleanWidget,
        help_text="Otherwise they stay as they are.",
    )

    def clean(self) -> dict[str, Any]:
        """Leaves the document in `text`, wherever it came from."""
        values = super().clean() or {}
        file = values.get("file")
        try:
            values["text"] = _read_file(file) if file else _checked(values.get("text", ""))
        except forms.ValidationError as error:
            self.add_error("file" if file else "text", error)
        if "text" not in self.errors and not values.get("text", "").strip():
            self.add_error("file" if file else "text", "Paste a document, or choose a file that has one.")
        return values


class ImportPages:
    """Mixed into the admin of services."""

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        own = [
            path("import/", site(self.import_view), name="balancer_service_import"),
            path("export/", site(self.export_view), name="balancer_service_export"),
        ]
        return own + super().get_urls()

    def import_view(self, request: HttpRequest) -> HttpResponse:
        if not may(actor=request.user, permission=DRAFT):
            return refuse_drafting(request)
        if not Cluster.objects.exists():
            messages.error(request, "There is no cluster yet; an administrator has to add one first.")
            return HttpResponseRedirect(list_address(Cluster))
        if request.method != "POST":
            form = ImportForm(initial={"cluster": request.GET.get("cluster") or Cluster.objects.first()})
            return self._show_import(request, form)
        form = ImportForm(request.POST, request.FILES)
        if not form.is_valid():
            return self._show_import(request, form)
        values = form.cleaned_data
        order = {"actor": actor_of(request), **{key: values[key] for key in ("cluster", "text", "replace")}}
        plan, refusal = None, ""
        try:
            plan = bulk.plan_import(**order)
            if is_to_be_saved(request, plan):
                return answer_saved(request, bulk.import_document(**order))
        except Refused as error:
            refusal = error.message
        # What a file held is in the text from now on: a browser sends no file twice.
        shown = ImportForm({**values, "cluster": values["cluster"].pk})
        return self._show_import(request, shown, plan=plan, refusal=refusal, cluster=values["cluster"])

    def _show_import(
        self,
        request: HttpRequest,
        form: ImportForm,
        *,
        plan: bulk.Planned | None = None,
        refusal: str = "",
        cluster: Cluster | None = None,
    ) -> HttpResponse:
        change = editing.find_current_change(actor=actor_of(request), cluster=cluster) if cluster else None
        return self.render(
            request,
            "import.html",
            title="Import document",
            crumbs=[("Import", "")],
            form=form,
            clusters=Cluster.objects.order_by("name"),
            plan=describe_plan(plan) if plan else None,
            seen_other=plan is not None and request.POST.get("do") == "save",
            refusal=refusal,
            change=change,
        )

    def export_view(self, request: HttpRequest) -> HttpResponse:
        """What is live, as a file; with `?drafts=1` as this person's change proposes it."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        cluster = _cluster_wanted(request.GET.get("cluster", ""))
        if cluster is None:
            messages.error(request, "There is no such cluster; choose one of the list.")
            return HttpResponseRedirect(list_address(Cluster))
        wanted = request.GET.get("drafts") == "1"
        change = editing.find_current_change(actor=actor_of(request), cluster=cluster) if wanted else None
        text = queries.candidate_text(cluster=cluster, change=change)
        if text is None:
            messages.error(request, "With your drafts the document is not valid, so there is none to export.")
            return HttpResponseRedirect(list_address(Service))
        end = f"-change-{change.pk}" if change else ""
        attachment = {"Content-Disposition": f'attachment; filename="{cluster.name}{end}.json"'}
        return HttpResponse(text, content_type="application/json", headers=attachment)


def _read_file(file: Any) -> str:
    if file.size > MAX_BYTES:
        raise forms.ValidationError(_too_big(file.size))
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        message = "This file is not text in UTF-8. Save the document as UTF-8 and choose it again."
        raise forms.ValidationError(message) from None


def _checked(text: str) -> str:
    size = len(text.replace("\r\n", "\n").encode(errors="replace"))
    if size > MAX_BYTES:
        raise forms.ValidationError(_too_big(size))
    return text


def _too_big(size: int) -> str:
    return (
        f"A document has at most {MAX_BYTES / 1e6:.0f} MB here; this one has {size / 1e6:.1f} MB. Import it"
        " in parts: services that a part does not name stay as they are."
    )


def _cluster_wanted(key: str) -> Cluster | None:
    """The one that is named; without a name the only one that there is."""
    if not key:
        found = list(Cluster.objects.all()[:2])
        return found[0] if len(found) == 1 else None
    return Cluster.objects.filter(pk=read_key(key)).first()
