"""A round of questions in a thread of its own, while the worker's goes on with what must not wait for it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")
MEANWHILE_SECONDS = 0.5


def run_aside(work: Callable[[], _T], *, meanwhile: Callable[[], None]) -> _T:
    """What `work` returns or raises. `meanwhile` is called every half second, in the caller's own thread."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="aside") as pool:
        future = pool.submit(work)
        while not wait([future], timeout=MEANWHILE_SECONDS).done:
            meanwhile()
        return future.result()
