"""People and roles, with Unfold's forms; for administrators only.

The one place where the console writes rows by Django's own means: these tables are Django's. Each deed still
leaves its event in the audit history, in the transaction that Django's admin opens for it.
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from balancer.admin.site import actor_of, list_address, page_address, show_moment
from balancer.models import AuditEvent, Cluster
from balancer.workflow import audit, policies
from balancer.workflow.audit import Action

PASSWORD_PAGE = "auth_user_password_change"

admin.site.unregister(User)
admin.site.unregister(Group)


class Audited:
    """Puts into the audit history what Django's admin would put into its own log."""

    deleted: Action

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return HttpResponseRedirect(list_address(AuditEvent))

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """`save_related` has recorded it."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """`save_related` has recorded it."""

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        """Before the rows go, in the transaction in which they go."""
        for row in queryset:
            audit.record(actor=actor_of(request), action=self.deleted, target=row)


class Trail:
    """The console's own line of pages above Django's forms."""

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        return super().changelist_view(request, {"crumbs": [(self._name(), "")], **(extra_context or {})})

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> HttpResponse:
        row = self.get_object(request, object_id) if object_id else None
        crumbs = [(self._name(), list_address(self.model)), (str(row) if row else "New", "")]
        return super().changeform_view(
            request, object_id, form_url, {"crumbs": crumbs, **(extra_context or {})}
        )

    def _name(self) -> str:
        return "Roles" if self.model is Group else "Users"


@admin.register(User)
class UserAdmin(Trail, Audited, DjangoUserAdmin, ModelAdmin):
    deleted = Action.PERSON_DELETED
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    actions = None
    list_display = ("username", "show_name", "show_roles", "show_active", "show_login")
    list_filter = ("groups", "is_active")
    readonly_fields = ("last_login", "date_joined")
    add_fieldsets = ((None, {"fields": ("username", "usable_password", "password1", "password2", "groups")}),)
    fieldsets = (
        (None, {"fields": ("username", "password", "first_name", "last_name", "email")}),
        ("Access", {"fields": ("is_active", "groups")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """A superuser's account is for superusers: who can set its password is one."""
        allowed = obj is None or not obj.is_superuser or request.user.is_superuser
        return allowed and super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        allowed = obj is None or not obj.is_superuser or request.user.is_superuser
        return allowed and super().has_delete_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        obj.is_staff = True  # what Django asks of everybody who logs in here; the roles say what they may do
        form.standing_before = policies.standing_of(obj) if change else None
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """After the roles are in the database: open changes are told what the person is now."""
        super().save_related(request, form, formsets, change)
        policies.record_person(
            actor=actor_of(request),
            person=form.instance,
            was=form.standing_before,
            changed=list(form.changed_data),
        )

    def log_change(self, request: HttpRequest, obj: User, message: Any) -> None:
        """Of a password, which has a page of its own without `save_related`."""
        match = request.resolver_match
        if match is not None and match.url_name == PASSWORD_PAGE:
            standing = policies.standing_of(obj)
            policies.record_person(actor=actor_of(request), person=obj, was=standing, changed=["password"])

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        with transaction.atomic():
            return super().user_change_password(request, id, form_url)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """Who wrote anything stays in the history; such an account is switched off instead."""
        person = self.get_object(request, unquote(object_id))
        if person is not None and self.has_delete_permission(request, person):
            *_, protected = self.get_deleted_objects([person], request)
            if protected:
                return _keep(request, person)
        return super().delete_view(request, object_id, extra_context)

    @display(description="Name", ordering="last_name")
    def show_name(self, row: User) -> str:
        return row.get_full_name()

    @display(description="Active", ordering="is_active", boolean=True)
    def show_active(self, row: User) -> bool:
        return row.is_active

    @display(description="Last login", ordering="last_login")
    def show_login(self, row: User) -> SafeString | str:
        return show_moment(row.last_login) if row.last_login else "never"

    @display(description="Roles")
    def show_roles(self, row: User) -> str:
        names = [group.name for group in row.groups.all()]
        return ", ".join([*(["Superuser"] if row.is_superuser else []), *sorted(names)]) or "none"


@admin.register(Group)
class GroupAdmin(Trail, Audited, DjangoGroupAdmin, ModelAdmin):
    deleted = Action.ROLE_DELETED
    actions = None

    def save_model(self, request: HttpRequest, obj: Group, form: Any, change: bool) -> None:
        form.permissions_before = policies.permissions_of(obj) if change else None
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        policies.record_role(
            actor=actor_of(request),
            group=form.instance,
            was=form.permissions_before,
            now=policies.permissions_of(form.instance),
        )

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """A role that a policy names stays: without it the policy would count everybody's approval."""
        role = self.get_object(request, unquote(object_id))
        named = Cluster.objects.filter(approver_groups=role).order_by("name").first() if role else None
        if named is not None and self.has_delete_permission(request, role):
            messages.error(
                request,
                f"Only approvals of {role} count in the cluster {named}, so the role cannot be deleted. Take"
                " it out of the approval policy first.",
            )
            return HttpResponseRedirect(page_address(named))
        return super().delete_view(request, object_id, extra_context)

    def delete_model(self, request: HttpRequest, obj: Group) -> None:
        """Its members lose what it gave them, which open changes are told of."""
        members = {person: policies.standing_of(person) for person in obj.user_set.order_by("pk")}
        super().delete_model(request, obj)
        for person, was in members.items():
            policies.record_person(actor=actor_of(request), person=person, was=was, changed=["groups"])


def _keep(request: HttpRequest, person: User) -> HttpResponse:
    how = "Switch it off here instead: untick Active." if person.is_active else "It is switched off already."
    messages.error(
        request,
        f"{person.get_username()} has a part in changes, which keep their people for ever, so the account"
        f" cannot be deleted. {how}",
    )
    return HttpResponseRedirect(page_address(person))
