"""What a person reads in an answer of the console, and what was proposed by it."""

import re

from django.contrib.auth.models import User

from balancer.models import Draft
from tests.admin.conftest import Login


def drafts() -> dict[str, dict]:
    """Name -> what is proposed, of changes that are being edited."""
    return dict(Draft.objects.filter(change__state="draft").values_list("service_name", "after"))


def text_of(response: object) -> str:
    """What there is to read in a page."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())  # type: ignore[attr-defined]


def page(login: Login, user: User, address: str) -> str:
    """What a person reads there, tags and runs of spaces taken out."""
    response = login(user).get(address)
    assert response.status_code == 200
    return text_of(response)
