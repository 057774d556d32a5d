"""Who may do what. A role gives permissions (models.roles); this is where they are asked for."""

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User

from balancer.models.roles import ADMINISTER, APPLY, APPROVE, DRAFT, EMERGENCY, OPERATE, ROLL_BACK
from balancer.workflow.errors import Refused

__all__ = [
    "ADMINISTER",
    "APPLY",
    "APPROVE",
    "DRAFT",
    "EMERGENCY",
    "OPERATE",
    "ROLL_BACK",
    "VIEW",
    "Actor",
    "may",
    "require",
]

VIEW = "balancer.view_change"

Actor = User | None
"""None is the system itself, which may do everything that is not a matter of four eyes."""

_DEEDS = {
    DRAFT: "draft changes",
    APPROVE: "approve or reject changes",
    APPLY: "apply changes",
    ROLL_BACK: "ask for a rollback",
    OPERATE: "operate backends",
    EMERGENCY: "apply changes in an emergency",
    ADMINISTER: "administer clusters and nodes",
    VIEW: "see changes",
}
_ROLES = {
    DRAFT: "Editor",
    APPROVE: "Approver",
    APPLY: "Operator or Approver",
    ROLL_BACK: "Editor or Operator",
    OPERATE: "Operator",
    EMERGENCY: "Administrator, or for a role with this right",
    ADMINISTER: "Administrator",
    VIEW: "Viewer",
}


def may(*, actor: AbstractBaseUser | AnonymousUser | None, permission: str) -> bool:
    """Whether the permission is there; a deed may still be refused for the state or for four eyes."""
    if actor is None:
        return True
    return bool(actor.is_active and actor.has_perm(permission))


def require(*, actor: Actor, permission: str) -> None:
    """Raises Refused("forbidden") where the permission is missing."""
    if not may(actor=actor, permission=permission):
        raise Refused(
            "forbidden",
            f"Your account may not {_DEEDS[permission]}. Ask an administrator for the role"
            f" {_ROLES[permission]}.",
        )
