"""Why a person's deed was not done."""

from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.db.models import Model


class Refused(Exception):
    """A deed that is not allowed, or not possible now. Nothing was changed.

    `code` is stable and short: `forbidden`, `state`, `own-change`, `not-invited`, `not-eligible`, `password`,
    `not-approved`, `not-rehearsed`, `stale`, `busy`, `away`, `frozen`, `conflict`, `invalid`, `reason`,
    `nothing`, `rollback`, `scheduled`, `taken`, `own-deed`, `limit`, `policy`,
    `no-guard`.
    `message` is for the person: what to do, in a sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Invalid(Refused):
    """Values that cannot be taken, each with its own sentence. `fields` are named like the arguments."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("invalid", " ".join(fields.values()))
        self.fields = dict(fields)


def require_valid(row: Model) -> None:
    """Refused("invalid") with the sentences of the row's own validators."""
    try:
        row.full_clean()
    except ValidationError as error:
        raise Refused("invalid", " ".join(error.messages)) from error
