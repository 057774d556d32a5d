"""Reading a document file for the commands that take one."""

from argparse import ArgumentParser
from pathlib import Path

from django.core.management.base import CommandError, OutputWrapper

from balancer.domain.codec import load_document
from balancer.domain.problem import errors, warnings
from balancer.domain.types import Document


def add_document_argument(parser: ArgumentParser) -> None:
    parser.add_argument("--document", required=True, type=Path, metavar="FILE", help="the document, as JSON")


def read_document(path: Path, *, stderr: OutputWrapper) -> Document:
    """The document in a file; warnings go to stderr. Raises CommandError that lists every Problem."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CommandError(f"Cannot read the document {path}: {error.strerror or error}.") from error
    document, problems = load_document(text)
    if document is None:
        listed = "\n".join(f"  {problem}" for problem in errors(problems))
        raise CommandError(f"The document {path} was not accepted; nothing was changed.\n{listed}")
    for warning in warnings(problems):
        stderr.write(f"Warning: {warning}")
    return document
