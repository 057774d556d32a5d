"""What a machine lacks on which tests with a kernel cannot run. They fail there, and say so, once for all."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.kernel.machine import Namespace

TOOLS = (
    *(
        f"{command}-{flavour}{verb}"
        for command in ("iptables", "ip6tables")
        for flavour in ("legacy", "nft")
        for verb in ("", "-restore", "-save")
    ),
    *("conntrack", "ipset", "nft", "ip", "ss"),
)
SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/netfilter/nf_conntrack_udp_timeout")
"""Some of each kind that a namespace of its own has."""
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@cache
def lacks() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ("root rights",)
    missing = tuple(f"the program {tool}" for tool in TOOLS if shutil.which(tool, path=PATH) is None)
    return missing or _lacks_in_a_namespace()


def explain(tier: str) -> str:
    """Empty where nothing is lacking."""
    if not lacks():
        return ""
    return (
        f"The {tier} tests need {', '.join(lacks())}, which this machine or run lacks. Run  sudo script/test"
        "  on a machine that has it, or leave them out:  script/test fast"
    )


def _lacks_in_a_namespace() -> tuple[str, ...]:
    try:
        namespace = Namespace()
    except OSError as error:
        return (f"leave to make network namespaces ({error.strerror})",)
    try:
        with namespace.entered():
            return (*_lacking_tables(), *_lacking_sysctls(), *_lacking_ipv6())
    finally:
        namespace.close()


def _lacking_tables() -> list[str]:
    found = []
    for tool in (tool for tool in TOOLS if tool.endswith(("tables-legacy", "tables-nft"))):
        command = [str(shutil.which(tool, path=PATH)), "-w", "5", "-t", "nat", "-n", "-L"]
        env = {**os.environ, "XTABLES_LOCKFILE": os.devnull}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            found.append(f"a kernel for {tool} ({done.stderr.strip()})")
    return found


def _lacking_sysctls() -> list[str]:
    found = []
    for name in SYSCTLS:
        path = Path("/proc/sys", name)
        try:
            path.write_text(path.read_text())
        except OSError as error:
            found.append(f"a /proc/sys/{name} that it can write to ({error.strerror})")
    return found


def _lacking_ipv6() -> list[str]:
    return [] if Path("/proc/thread-self/net/if_inet6").exists() else ["IPv6"]
