"""The errors of the lab."""


class LabError(Exception):
    """The lab cannot be built, used or removed; the message says why and what to do."""


class GaveWay(LabError):
    """It was stopped for something that cannot wait; it says nothing about what was tried."""
