"""The signing key."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lbadmin.secret_key import load_secret_key


def test_the_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"

    first = load_secret_key(path=path)

    assert load_secret_key(path=path) == first
    assert len(first) >= 60
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret-key"]


def test_processes_that_start_together_get_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "secret-key"

    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load_secret_key(path=path), range(64)))

    assert len(keys) == 1
