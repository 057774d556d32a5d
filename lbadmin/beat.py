"""The beat process: `python -m lbadmin.beat`."""

import django

from lbadmin.celery import app


def main() -> None:
    """Runs until it is told to stop."""
    django.setup()
    app.start(["--quiet", "beat", "--loglevel", "INFO"])


if __name__ == "__main__":
    main()
