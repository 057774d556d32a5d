"""The one error of the lab."""


class LabError(Exception):
    """The lab cannot be built, used or removed; the message says why and what to do."""
