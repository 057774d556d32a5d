"""Debian's Chromium in the form without a window, as root, and the demo: the real stack over its own lab."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    StorageState,
    expect,
    sync_playwright,
)

from balancer.lab.record import RECORDS
from balancer.lab.topology import Lab
from tests.ports import free_port
from tests.scenarios.demo_runs import WITH_ITS_TEST

TREE = Path(__file__).resolve().parents[2]
START_SECONDS = 240.0
STOP_SECONDS = 120.0
PATIENCE = 60_000
"""Milliseconds in which a page shows what it has to show; the machine may be busy."""
CLIENT = "198.51.100.200"
"""One of the lab's clients that the background traffic does not use."""
_HOLD = """
import socket, sys
source, target, port, count = sys.argv[1:]
held = [socket.create_connection((target, int(port)), 20, (source, 0)) for _ in range(int(count))]
print("open", flush=True)
sys.stdin.read()
"""
_runs = itertools.count()
_CONNECTIONS_MAX = 50
"""Of a run: so a port is used again only after more than a thousand runs."""
_GIVEN_UP = frozenset({"htmx:afterRequest", "htmx:sendAbort"})
"""What htmx calls errors when a page gives up a request: somebody left it, or typed on and asked anew.

Of a request that failed it says another word beside the first of these, as htmx:sendError or htmx:timeout.
"""
_LOGIN = re.compile(r"^ {4}(\w+) +(\S+)$", re.MULTILINE)


QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


# Of a file, and so is the demo: a worker goes on with tests of another tier, beside which neither may be.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        shell = shutil.which("chromium-headless-shell")
        # Its sandbox refuses to work for root, and kernel namespaces need root.
        args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *QUIET]
        started = playwright.chromium.launch(executable_path=shell, args=args)
        yield started
        started.close()


@dataclass(frozen=True)
class Console:
    """A running demo."""

    address: str
    passwords: dict[str, str]
    prefix: str
    logins: dict[str, StorageState] = field(default_factory=dict)
    """Name -> the cookies of somebody who has logged in by hand."""

    def connect(self, *, balancer: str, port: int, count: int, at_once: int = 1) -> dict[str, int]:
        """Real connections from the client's namespace: backend -> answers.

        Where the demo's own traffic takes turns of the service too, several `at_once` get turn after turn;
        one by one they might get every second turn, and so never meet every backend.
        """
        order = {"kind": "tcp", "address": balancer, "port": port, "count": count}
        # Source ports that nobody else uses, see docs/design/lab.md.
        first = next(_runs) * _CONNECTIONS_MAX
        order |= {"first": first, "sources": [CLIENT], "timeout": 20.0, "concurrency": at_once}
        inside = ["ip", "netns", "exec", f"{self.prefix}client"]
        done = subprocess.run(
            [*inside, sys.executable, "-m", "balancer.lab.client"],
            input=json.dumps(order) + "\n",
            capture_output=True,
            text=True,
            check=True,
            cwd=TREE,
        )
        report = json.loads(done.stdout)
        return report["answered"] | {f"lost: {why}": lost for why, lost in report["lost"].items()}

    def run(self, machine: str, *command: str) -> None:
        """In the namespace of one machine, with its own lock of iptables."""
        lock = RECORDS / self.prefix / f"{machine}.xtables.lock"
        inside = ["ip", "netns", "exec", f"{self.prefix}{machine}", *command]
        subprocess.run(inside, check=True, env={**os.environ, "XTABLES_LOCKFILE": str(lock)})

    def switch_off(self, backend: str) -> None:
        """As the demo's welcome says."""
        subprocess.run(Lab(prefix=self.prefix).dying(backend=backend), check=True)

    def switch_on(self, backend: str) -> None:
        subprocess.run(Lab(prefix=self.prefix).reviving(backend=backend), check=True)

    @contextmanager
    def held_open(self, *, balancer: str, port: int, count: int) -> Iterator[None]:
        """So many connections of clients that say nothing."""
        inside = ["ip", "netns", "exec", f"{self.prefix}client", sys.executable, "-c", _HOLD]
        command = [*inside, CLIENT, balancer, str(port), str(count)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "open\n"
                yield
            finally:
                assert holder.stdin is not None
                holder.stdin.close()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The demo from its first line to its end, with namespaces, port and state of its own."""
    directory = tmp_path_factory.mktemp("demo")
    prefix, port = f"lbb{os.getpid()}-", free_port()
    command = [*WITH_ITS_TEST, sys.executable, "-u", "manage.py", "demo"]
    command += ["--port", str(port), "--prefix", prefix]
    command += ["--state-dir", str(directory / "state"), "--user", "root"]
    output = directory / "output"
    with output.open("w") as file:
        demo = subprocess.Popen(command, cwd=TREE, stdout=file, stderr=subprocess.STDOUT)
    try:
        text = _wait_for_welcome(demo, output)
        yield Console(f"http://127.0.0.1:{port}", dict(_LOGIN.findall(text)), prefix)
    finally:
        demo.send_signal(signal.SIGTERM)
        status = demo.wait(timeout=STOP_SECONDS)
    assert status == 0, output.read_text()
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert prefix not in left


Person = Callable[..., Page]


@pytest.fixture
def person(browser: Browser, console: Console) -> Iterator[Person]:
    with seats(browser, console) as sit_down:
        yield sit_down


@contextmanager
def seats(browser: Browser, console: Console) -> Iterator[Person]:
    """A browser of its own for each person; its page, which fails the test on an error.

    Everybody logs in by hand once and is let in by the same session afterwards. Who is `new` logs in again,
    as somebody who has not typed a password for a deed yet.
    """
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def sit_down(name: str = "", *, width: int = 1440, theme: str = "light", new: bool = False) -> Page:
        known = None if new else console.logins.get(name)
        context = browser.new_context(
            base_url=console.address,
            storage_state=known,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{name}: {error}"))
        page.on("console", lambda m: _note_error(m, name, errors))
        page.on("request", lambda r: _note_foreign(r.url, console.address, errors))
        if known:
            page.goto("/")
        elif name:
            _log_in(page, name, console.passwords[name])
            console.logins.setdefault(name, context.storage_state())
        return page

    try:
        yield sit_down
    finally:
        for context in contexts:
            context.close()
    assert errors == []


def _log_in(page: Page, name: str, password: str) -> None:
    page.goto("/")
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Dashboard").wait_for()


def _note_error(message: ConsoleMessage, name: str, errors: list[str]) -> None:
    if message.type == "error" and message.text not in _GIVEN_UP:
        errors.append(f"{name}: {message.text}")


def _note_foreign(url: str, own: str, errors: list[str]) -> None:
    """A console that works without the Internet asks nobody else for anything."""
    if not url.startswith((own, "data:", "blob:")):
        errors.append(f"asked another machine: {url}")


def _wait_for_welcome(demo: subprocess.Popen[bytes], output: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and demo.poll() is None:
        text = output.read_text()
        if "Ctrl-C ends the demo" in text:
            return text
        time.sleep(0.1)
    pytest.fail(f"The demo did not start:\n{output.read_text()}")
