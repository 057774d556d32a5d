"""The beat process: `python -m lbadmin.beat`."""

import gc

import django

from lbadmin.celery import app


def main() -> None:
    """Runs until it is told to stop."""
    django.setup()
    app.loader.import_default_modules()
    gc.freeze()
    app.start(["--quiet", "beat", "--loglevel", "INFO"])


if __name__ == "__main__":
    main()
