"""People at the real console: logged in without a form, pressing buttons at the same moment."""

import http.client
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from threading import Barrier
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.messages import constants
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpRequest
from django.utils import timezone

from balancer.admin.change_deeds import PASSWORD_AT

_TOKEN = "a" * 32
"""Any secret will do for CSRF, as long as cookie and form agree."""
_PATIENCE = 60


@dataclass(frozen=True)
class Answer:
    status: int
    level: int
    """Of the message that the next page shows, as in django.contrib.messages.constants."""
    message: str

    @property
    def done(self) -> bool:
        return self.level == constants.SUCCESS


@dataclass(frozen=True)
class Browser:
    """One person's session at the console behind a unix socket."""

    console: Path
    session: str

    @classmethod
    def of(cls, person: User, *, console: Path) -> "Browser":
        """Logged in, and has just typed the password."""
        session = SessionStore()
        session[SESSION_KEY] = str(person.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = person.get_session_auth_hash()
        session[PASSWORD_AT] = timezone.now().timestamp()
        session.save()
        return cls(console=console, session=str(session.session_key))

    def post(self, address: str, **fields: str) -> Answer:
        connection = _Connection(self.console)
        body = urlencode({"csrfmiddlewaretoken": _TOKEN, **fields})
        cookies = {settings.SESSION_COOKIE_NAME: self.session, settings.CSRF_COOKIE_NAME: _TOKEN}
        headers = {
            "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        try:
            connection.request("POST", address, body=body, headers=headers)
            response = connection.getresponse()
            response.read()
            return _answer(response)
        finally:
            connection.close()


@dataclass(frozen=True)
class Press:
    """One press of a button."""

    browser: Browser
    address: str
    fields: dict[str, str]


def press_at_once(presses: Iterable[Press]) -> list[Answer]:
    """All of them at the same moment, each over a connection of its own."""
    waiting = list(presses)
    barrier = Barrier(len(waiting))

    def press(one: Press) -> Answer:
        barrier.wait()
        return one.browser.post(one.address, **one.fields)

    with ThreadPoolExecutor(len(waiting)) as pool:
        return list(pool.map(press, waiting))


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_PATIENCE)
        self.sock.connect(str(self._path))


def _answer(response: http.client.HTTPResponse) -> Answer:
    """With the message that Django keeps in a cookie for the next page."""
    found: SimpleCookie = SimpleCookie()
    for header in response.headers.get_all("Set-Cookie", []):
        found.load(header)
    kept = found.get(CookieStorage.cookie_name)
    messages = CookieStorage(HttpRequest())._decode(kept.value) if kept else None
    last = messages[-1] if messages else None
    return Answer(response.status, last.level if last else 0, str(last.message) if last else "")
