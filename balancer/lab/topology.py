"""The lab: the machines of a `Topology` in network namespaces, removed again however its owner ends."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from balancer.domain.types import Family
from balancer.lab import record
from balancer.lab.errors import LabError
from balancer.lab.ipv6 import Ipv6
from balancer.lab.machines import (
    ARTICLE_BACKENDS,
    ARTICLE_BALANCERS,
    CLIENTS,
    LAN,
    SEGMENTS,
    Balancer,
    Topology,
    check_topology,
)
from balancer.lab.namespaces import create_namespaces, run_ip, wait_for_links
from balancer.lab.plan import plan_lab

DEFAULT_PREFIX = "lbadmin-"
_OWN = ("table", "local")
_WRITE_SYSCTLS = 'while read -r key value; do echo "$value" > "/proc/sys/$key"; done'


class Lab:
    """A context manager. Inside it the machines stand, every backend answers, and the client can reach them.

    A machine is named `client`, `backends` or as its balancer is. Needs root; raises LabError.
    Whatever is started inside a namespace of the lab is killed with the lab.
    """

    def __init__(
        self,
        *,
        prefix: str = DEFAULT_PREFIX,
        balancers: tuple[Balancer, ...] = ARTICLE_BALANCERS,
        backends: tuple[IPv4Network, ...] = ARTICLE_BACKENDS,
        gateway: str | None = None,
        clients: IPv4Network = CLIENTS,
        lan: IPv4Network = LAN,
        first_segment: IPv4Network = SEGMENTS,
        router: IPv4Address | None = None,
        ipv6: Ipv6 | None = None,
        tcp_ports: Sequence[int] = (80,),
        udp_ports: Sequence[int] = (),
        records: Path = record.RECORDS,
    ) -> None:
        self.topology = Topology(
            prefix=prefix,
            balancers=balancers,
            backends=backends,
            gateway=gateway,
            clients=clients,
            lan=lan,
            first_segment=first_segment,
            router=router,
            ipv6=ipv6,
        )
        self.directory = records / prefix
        """Private to root and removed with the lab: lock files, status files."""
        self._tcp_ports = tuple(tcp_ports)
        self._udp_ports = tuple(udp_ports)
        self._reaper: subprocess.Popen[str] | None = None
        self._listeners: list[subprocess.Popen[str]] = []
        self._flow = 0

    def __enter__(self) -> Self:
        problem = check_topology(self.topology)
        if problem is not None:
            raise LabError(problem)
        if os.geteuid() != 0:
            raise LabError("Network namespaces can be made by root only. Run this with sudo.")
        record.claim_directory(directory=self.directory, namespaces=self.topology.namespaces)
        try:
            self._arm_reaper()
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything; returns when nothing is left. LabError says what would not go."""
        reaper, self._reaper = self._reaper, None
        if reaper is not None:
            reaper.communicate()
        if reaper is None or reaper.returncode:
            record.remove_lab(directory=self.directory, namespaces=self.topology.namespaces)
        for listener in self._listeners:
            listener.communicate()

    def namespace(self, *, machine: str) -> str:
        return self.topology.namespace(machine)

    def address(
        self, *, balancer: str, interface: str = "eth0", family: Family = Family.IPV4
    ) -> IPv4Address | IPv6Address:
        if family is Family.IPV6:
            return self.topology.address_ipv6(balancer, interface)
        return self.topology.address(balancer, interface)

    def command(self, *, machine: str, command: Sequence[str]) -> list[str]:
        """The same command, inside the machine; it stays one process with one pid."""
        return ["ip", "netns", "exec", self.namespace(machine=machine), *command]

    def dying(self, *, backend: str) -> list[str]:
        """The command after which nobody reaches this address any more, as if its machine were off."""
        return ["ip", "-n", self.topology.backend, "route", "replace", "unreachable", backend, *_OWN]

    def reviving(self, *, backend: str) -> list[str]:
        """The command that takes back what `dying` did."""
        return ["ip", "-n", self.topology.backend, "route", "replace", "local", backend, "dev", "lo", *_OWN]

    def environment(self, *, machine: str) -> dict[str, str]:
        """The caller's environment with an xtables lock of the machine's own."""
        return {**os.environ, "XTABLES_LOCKFILE": str(self.directory / f"{machine}.xtables.lock")}

    def run(
        self, *, machine: str, command: Sequence[str], text: str | None = None, timeout: float = 60.0
    ) -> str:
        """Run to the end inside the machine; the standard output, or LabError with the standard error."""
        try:
            done = subprocess.run(
                self.command(machine=machine, command=command),
                input=text,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                env=self.environment(machine=machine),
            )
        except subprocess.TimeoutExpired as error:
            told = f"“{' '.join(command)}” had not ended on {machine} after {timeout:.0f} s and was stopped."
            raise LabError(told) from error
        if done.returncode:
            raise LabError(f"“{' '.join(command)}” failed on {machine}: {done.stderr.strip()}")
        return done.stdout

    def listen(self, *, machine: str, tcp_ports: Sequence[int] = (), udp_ports: Sequence[int] = ()) -> None:
        """Open ports on a machine; they answer as `listeners` says, until the lab ends."""
        ports = [f"--tcp={port}" for port in tcp_ports] + [f"--udp={port}" for port in udp_ports]
        families = [] if self.topology.ipv6 is None else ["--ipv6"]
        started = self.start_module(machine=machine, module="listeners", arguments=[*ports, *families])
        self._listeners.append(started)
        _expect_ready(started, what=f"The listeners on {machine}")

    def start_module(
        self, *, machine: str, module: str, arguments: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        """Start `balancer.lab.<module>` inside a machine, with pipes for its input and output."""
        return subprocess.Popen(
            self.command(machine=machine, command=module_command(module, *arguments)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=module_environment(),
        )

    def reserve_flows(self, *, count: int) -> int:
        """The first of `count` flow numbers that no earlier traffic of this lab has used."""
        first, self._flow = self._flow, self._flow + count
        return first

    def _arm_reaper(self) -> None:
        self._reaper = subprocess.Popen(
            module_command("reaper", str(self.directory), str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=module_environment(),
            start_new_session=True,
            cwd="/",
        )
        _expect_ready(self._reaper, what="The lab's reaper")
        known = record.read_record(directory=self.directory)
        assert known is not None
        reaper = record.identify_process(self._reaper.pid)
        record.write_record(directory=self.directory, record=dataclasses.replace(known, reaper=reaper))

    def _build(self) -> None:
        plan = plan_lab(self.topology)
        create_namespaces(names=self.topology.namespaces)
        for name, sysctls in plan.sysctls.items():
            _write_sysctls(name=name, sysctls=sysctls)
        run_ip(arguments=["-batch", "-"], text=_batch(plan.links))
        for name, lines in plan.setup.items():
            run_ip(arguments=["-n", name, "-batch", "-"], text=_batch(lines))
        for name in (self.topology.client, self.topology.backend):
            wait_for_links(name=name)
        if self._tcp_ports or self._udp_ports:
            self.listen(machine="backends", tcp_ports=self._tcp_ports, udp_ports=self._udp_ports)


def module_command(module: str, *arguments: str) -> list[str]:
    """`-S`: these modules need the standard library only, and start in 20 ms without site-packages."""
    return [sys.executable, "-S", "-m", f"balancer.lab.{module}", *arguments]


def module_environment() -> Mapping[str, str]:
    root = Path(__file__).resolve().parents[2]
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(root),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def missing_tools() -> tuple[str, ...]:
    """Commands that the lab needs and this machine lacks."""
    needed = ("ip", "iptables-legacy-restore", "iptables-nft-restore")
    return tuple(name for name in needed if shutil.which(name) is None)


def _write_sysctls(*, name: str, sysctls: Sequence[tuple[str, str]]) -> None:
    text = "".join(f"{key} {value}\n" for key, value in sysctls)
    run_ip(arguments=["netns", "exec", name, "sh", "-ec", _WRITE_SYSCTLS], text=text)


def _batch(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _expect_ready(process: subprocess.Popen[str], *, what: str) -> None:
    output: IO[str] | None = process.stdout
    assert output is not None
    if output.readline().strip() != "ready":
        _, complaint = process.communicate()
        raise LabError(f"{what} did not start: {complaint.strip()}")
