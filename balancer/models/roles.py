"""The roles a person can have, as groups with permissions; made by a migration, enforced by workflow."""

from typing import Any

DRAFT = "balancer.draft_change"
APPROVE = "balancer.approve_change"
APPLY = "balancer.apply_change"
ROLL_BACK = "balancer.roll_back_revision"
OPERATE = "balancer.operate_backend"
EMERGENCY = "balancer.declare_emergency"
ADMINISTER = "balancer.administer_cluster"

VIEWED_MODELS = (
    "auditevent",
    "backend",
    "change",
    "cluster",
    "deployment",
    "draft",
    "emergency",
    "freeze",
    "evidence",
    "job",
    "latereview",
    "node",
    "override",
    "rehearsal",
    "review",
    "revision",
    "service",
    "vote",
    "window",
)
OWN_PERMISSIONS = {
    ("change", "draft_change"): "Can draft, submit and withdraw changes",
    ("change", "approve_change"): "Can approve and reject changes of others",
    ("change", "apply_change"): "Can apply approved changes and cancel deployments",
    ("revision", "roll_back_revision"): "Can ask to roll back to a revision",
    ("override", "operate_backend"): "Can drain, disable and enable backends and shift weights",
    ("emergency", "declare_emergency"): "Can apply changes in an emergency, without an approval",
    ("cluster", "administer_cluster"): "Can administer clusters and nodes",
}
DEEDS_OF = {
    "Viewer": (),
    "Editor": ("draft_change", "roll_back_revision"),
    "Approver": ("approve_change", "apply_change"),
    "Operator": ("apply_change", "roll_back_revision", "operate_backend"),
    "Administrator": tuple(codename for (_, codename) in OWN_PERMISSIONS),
}
ROLES = tuple(DEEDS_OF)


def install_roles(*, apps: Any, alias: str) -> None:
    """Make the groups and give them their permissions; what an administrator added to them stays.

    Django makes permissions only after all migrations; those that are needed here are made here, with the
    names that it would give them.
    """
    group_model = apps.get_model("auth", "Group")
    viewing = [
        _permission(apps, alias, "balancer", model, f"view_{model}", f"Can view {_words(apps, model)}")
        for model in VIEWED_MODELS
        if model in apps.all_models["balancer"]  # an early migration knows fewer
    ]
    own = {
        codename: _permission(apps, alias, "balancer", model, codename, name)
        for (model, codename), name in OWN_PERMISSIONS.items()
    }
    people = [
        _permission(apps, alias, "auth", model, f"{deed}_{model}", f"Can {deed} {model}")
        for model in ("user", "group")
        for deed in ("add", "change", "delete", "view")
    ]
    for role, deeds in DEEDS_OF.items():
        group, _ = group_model.objects.using(alias).get_or_create(name=role)
        group.permissions.add(*viewing, *(own[deed] for deed in deeds))
        if role == "Administrator":
            group.permissions.add(*people)


def _permission(apps: Any, alias: str, app_label: str, model: str, codename: str, name: str) -> Any:
    content_types = apps.get_model("contenttypes", "ContentType").objects.using(alias)
    content_type, _ = content_types.get_or_create(app_label=app_label, model=model)
    permissions = apps.get_model("auth", "Permission").objects.using(alias)
    permission, _ = permissions.get_or_create(
        content_type=content_type, codename=codename, defaults={"name": name}
    )
    return permission


def _words(apps: Any, model: str) -> str:
    return str(apps.get_model("balancer", model)._meta.verbose_name)
