"""People and roles, with Unfold's forms; for administrators only.

The one place where the console writes rows by Django's own means: these tables are Django's. Each deed still
leaves its event in the audit history, in the transaction that Django's admin opens for it.
"""

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from balancer.admin.site import actor_of
from balancer.workflow import audit

admin.site.unregister(User)
admin.site.unregister(Group)


class Audited:
    """Puts into the audit history what Django's admin would put into its own log."""

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        _record(request, "created", obj)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        _record(request, "updated", obj, changed=message)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        for obj in queryset:
            _record(request, "deleted", obj)


def _record(request: HttpRequest, deed: str, obj: Model, **facts: Any) -> None:
    kind = "person" if isinstance(obj, User) else "role"
    if isinstance(obj, User) and deed != "deleted":
        facts["roles"] = sorted(obj.groups.values_list("name", flat=True))
        facts |= {"active": obj.is_active, "superuser": obj.is_superuser}
    audit.record(actor=actor_of(request), action=f"{kind}.{deed}", target=obj, facts=facts)


@admin.register(User)
class UserAdmin(Audited, DjangoUserAdmin, ModelAdmin):
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    actions = None
    list_display = ("username", "first_name", "last_name", "is_active", "last_login")
    list_filter = ("groups", "is_active")


@admin.register(Group)
class GroupAdmin(Audited, DjangoGroupAdmin, ModelAdmin):
    actions = None
