"""The process that tries in a scratch namespace what the kernel can carry (`capabilities`)."""

import json
import sys

from balancer.domain.types import Family
from balancer.kernel.base import Flavour, KernelError
from balancer.kernel.capability_trials import try_all
from balancer.kernel.scratch import in_scratch_namespace


def main() -> None:
    asked = json.load(sys.stdin)
    try:
        with in_scratch_namespace("trying what the kernel can carry"):
            missing = try_all(flavour=Flavour(asked["flavour"]), family=Family(asked["family"]))
    except (KernelError, OSError):
        missing = {}
    json.dump({"missing": missing}, sys.stdout)


if __name__ == "__main__":
    main()
