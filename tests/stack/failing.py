"""Settings of a worker whose kernel writes what it is told and whose probe then finds nobody, where a service
takes port 81. With DJANGO_SETTINGS_MODULE=tests.stack.failing."""

from typing import Any

from balancer.kernel.base import Rejected
from lbadmin.settings import *  # noqa: F403

LBADMIN_KERNEL_FACTORY = "tests.stack.failing.make_failing_kernel"


class FailingKernel:
    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sync(self, **options: Any) -> Any:
        receipt = self._real.sync(**options)
        if any(service.port == 81 for service in options["document"].services):
            raise Rejected("The probe found nobody at port 81.")
        return receipt


def make_failing_kernel(*, flavour: str, driver: str) -> FailingKernel:
    from balancer.factories import make_node_kernel

    return FailingKernel(make_node_kernel(flavour=flavour, driver=driver))
