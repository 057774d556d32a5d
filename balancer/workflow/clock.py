"""Time as a parameter: what moves by itself in the workflow is told it, so that tests can tell another."""

from collections.abc import Callable
from datetime import datetime

Clock = Callable[[], datetime]
