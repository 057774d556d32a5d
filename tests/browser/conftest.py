"""Debian's Chromium, as root and without a display."""

import shutil

import pytest


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, object]) -> dict[str, object]:
    quiet = (
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    )
    return {
        **browser_type_launch_args,
        "executable_path": shutil.which("chromium"),
        # Its sandbox refuses to work for root, and kernel namespaces need root.
        "args": ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *quiet],
    }
