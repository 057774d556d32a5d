"""Which flavour and driver a node uses, and why."""

from dataclasses import dataclass

from balancer.domain.types import Family
from balancer.kernel.base import DriverName, Flavour, Rejected
from balancer.kernel.flavour import detect_host_tool, tool_name, tool_version
from balancer.kernel.pyiptables import PythonIptablesDriver
from balancer.kernel.restore import RestoreDriver
from balancer.kernel.selftest import why_not_python_iptables
from balancer.kernel.tools import find_tool

Driver = PythonIptablesDriver | RestoreDriver


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    flavour: Flavour
    driver: DriverName
    reason: str
    version: str

    def driver_for(self, family: Family) -> DriverName:
        """python-iptables compares one bit of an interface's name over IPv6, so that it carries IPv4 only."""
        return self.driver if family is Family.IPV4 else DriverName.IPTABLES_RESTORE

    def make_driver(self, *, family: Family, wait_seconds: float) -> Driver:
        if self.driver_for(family) is DriverName.PYTHON_IPTABLES:
            return PythonIptablesDriver(family=family, wait_seconds=wait_seconds)
        return RestoreDriver(flavour=self.flavour, family=family, wait_seconds=wait_seconds)


def select(*, flavour: Flavour | None, driver: DriverName | None) -> Selection:
    """None means: find out. Raises Rejected when what was asked for cannot work here."""
    if flavour is None:
        host = detect_host_tool()
        flavour, because = host.flavour, host.reason
    else:
        because = f"the flavour {flavour} was asked for"
    missing = [
        name
        for verb in ("save", "restore")
        if find_tool(name := tool_name(flavour=flavour, verb=verb)) is None
    ]
    if missing:
        raise Rejected(f"The flavour {flavour} needs {' and '.join(missing)}, which this machine lacks.")
    chosen, why = _select_driver(flavour, driver)
    return Selection(
        flavour=flavour, driver=chosen, reason=f"{why}; {because}", version=tool_version(flavour)
    )


def _select_driver(flavour: Flavour, driver: DriverName | None) -> tuple[DriverName, str]:
    if driver is DriverName.IPTABLES_RESTORE:
        return driver, "iptables-restore was asked for"
    if flavour is Flavour.NFT:
        if driver is DriverName.PYTHON_IPTABLES:
            raise Rejected(
                "The driver python-iptables writes legacy tables only, and this node uses iptables-nft."
                " Use the driver iptables-restore, or the flavour legacy."
            )
        return DriverName.IPTABLES_RESTORE, "iptables-nft is written by iptables-restore"
    why_not = why_not_python_iptables()
    if why_not is None:
        return DriverName.PYTHON_IPTABLES, "python-iptables passed its self-test"
    if driver is DriverName.PYTHON_IPTABLES:
        raise Rejected(
            f"The driver python-iptables failed its self-test on this machine: {why_not}."
            " Use the driver iptables-restore."
        )
    return DriverName.IPTABLES_RESTORE, f"python-iptables failed its self-test ({why_not})"
