"""The signing key: from the environment, or generated once into the state directory."""

import os
import secrets
import tempfile
from pathlib import Path

KEY_BYTES = 48


def load_secret_key(*, path: Path) -> str:
    """The key in `path`, made there first (mode 0600) where the file is missing.

    Several processes may start at once on a new machine: the key is written aside and linked into place,
    which only one of them can do, and all read what is in place afterwards.
    """
    if not path.exists():
        _create_once(path=path, content=secrets.token_urlsafe(KEY_BYTES))
    return path.read_text(encoding="ascii").strip()


def _create_once(*, path: Path, content: str) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(aside)
