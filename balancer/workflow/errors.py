"""Why a person's deed was not done."""


class Refused(Exception):
    """A deed that is not allowed, or not possible now. Nothing was changed.

    `code` is stable and short: `forbidden`, `state`, `own-change`, `not-invited`, `not-eligible`, `password`,
    `not-approved`, `not-rehearsed`, `stale`, `busy`, `conflict`, `invalid`, `reason`, `nothing`, `rollback`,
    `taken`.
    `message` is for the person: what to do, in a sentence.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
