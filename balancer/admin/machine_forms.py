"""The two small forms for clusters and nodes, for administrators; everybody else reads."""

from abc import abstractmethod
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path

from balancer.admin.site import actor_of, list_address, page_address
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import ADMINISTER, may


class MachinePages:
    """Mixed into an admin that says how its rows are made, updated and shown."""

    machine_fields: tuple[str, ...] = ()
    fixed_fields: tuple[str, ...] = ()
    """Given once, when the row is made."""

    @abstractmethod
    def create_machine(self, **values: Any) -> Model:
        """The row that was made; Refused as the workflow says."""

    @abstractmethod
    def update_machine(self, row: Any, **values: Any) -> Model:
        """The row as it is now; Refused as the workflow says."""

    @abstractmethod
    def show_machine(self, request: HttpRequest, row: Any) -> HttpResponse:
        """Its page."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(actor=request.user, permission=ADMINISTER)

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site.admin_view
        name = f"balancer_{self.opts.model_name}_edit"
        return [path("<int:row_id>/edit/", site(self.edit_view), name=name), *super().get_urls()]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        return self._edit(request, row=None, title=f"New {self.opts.verbose_name}")

    def edit_view(self, request: HttpRequest, row_id: int) -> HttpResponse:
        row = self.find(request, str(row_id))
        if row is None:
            return self.answer_missing(request, str(row_id))
        return self._edit(request, row=row, title=f"Edit {row}")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        row = self.find(request, object_id)
        return self.answer_missing(request, object_id) if row is None else self.show_machine(request, row)

    def _edit(self, request: HttpRequest, *, row: Any, title: str) -> HttpResponse:
        if not may(actor=request.user, permission=ADMINISTER):
            messages.error(request, "Only an administrator can add or edit clusters and nodes.")
            return HttpResponseRedirect(page_address(row) if row else list_address(self.opts.model))
        fields = [name for name in self.machine_fields if row is None or name not in self.fixed_fields]
        form = _form_class(self, request, fields)(request.POST or None, instance=row)
        if request.method == "POST" and form.is_valid():
            saved = self._save(request, form, row=row)
            if saved is not None:
                messages.success(request, f"{saved} was saved.")
                return HttpResponseRedirect(page_address(saved))
        crumbs = [(str(row), page_address(row)), ("Edit", "")] if row else [("New", "")]
        back = page_address(row) if row else list_address(self.opts.model)
        return self.render(request, "machine_form.html", title=title, crumbs=crumbs, form=form, back=back)

    def _save(self, request: HttpRequest, form: forms.ModelForm, *, row: Any) -> Model | None:
        values = {"actor": actor_of(request), **form.cleaned_data}
        try:
            if row is None:
                return self.create_machine(**values)
            # The form has put its values into its instance; the workflow gets the row as it was.
            return self.update_machine(type(row)._default_manager.get(pk=row.pk), **values)
        except Refused as refusal:
            form.add_error(None, refusal.message)
            return None


def _form_class(admin: Any, request: HttpRequest, fields: list[str]) -> type[forms.ModelForm]:
    def with_widget(field: Any, **kwargs: Any) -> forms.Field | None:
        found = admin.formfield_for_dbfield(field, request, **kwargs)
        if isinstance(getattr(found, "widget", None), RelatedFieldWidgetWrapper):
            found.widget = found.widget.widget  # no second way to add and edit what is chosen from
        return found

    return forms.modelform_factory(admin.model, fields=fields, formfield_callback=with_widget)
