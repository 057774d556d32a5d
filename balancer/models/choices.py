"""Choices for fields, made from the enums of the domain."""

from enum import StrEnum


def choices_of(enum: type[StrEnum]) -> list[tuple[str, str]]:
    """(value, label) pairs; the label is the value in words."""
    return [(member.value, member.value.replace("-", " ").replace("_", " ").capitalize()) for member in enum]
