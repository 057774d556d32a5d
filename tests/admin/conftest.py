"""Browsers without a browser: one logged-in client for each person."""

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.utils import timezone

from balancer.admin.change_deeds import PASSWORD_AT
from balancer.models import Change, Service
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import service_data

Login = Callable[[User], Client]

ROLES = ("viewer", "author", "approver", "operator", "administrator", "stranger")
"""Names of fixtures; the author is an Editor, the stranger has no role."""


@pytest.fixture(scope="package", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """What makes a guess dear makes a test dear as well; tests/browser logs in against the real thing."""
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield


@pytest.fixture
def login() -> Login:
    """Everybody has just typed the password; tests/admin/test_password.py is about those who have not."""

    def _login(user: User) -> Client:
        client = Client()
        client.force_login(user)
        session = client.session
        session[PASSWORD_AT] = timezone.now().timestamp()
        session.save()
        return client

    return _login


@pytest.fixture
def web(site: Site) -> Service:
    """The article's service, live on both nodes."""
    site.deploy(service_data("web", description="The shop"))
    return Service.objects.get(name="web")


@pytest.fixture
def submitted(site: Site, web: Service) -> Change:
    """A change by the author, in review, that gives one backend three times the weight."""
    change = site.change(heavier(), title="More for the first")
    return submit_change(actor=site.author, change=change)


def heavier() -> dict[str, object]:
    data = service_data("web", description="The shop")
    first, *rest = data["backends"]
    return data | {"backends": [first | {"weight": 3}, *rest]}


def messages_of(response: object) -> str:
    """What the next page says at its top."""
    return " ".join(str(message) for message in response.context["messages"])  # type: ignore[attr-defined]
