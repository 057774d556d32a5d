"""What others do to our rules: each kind as a sentence and as the commands that do it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from tests.kernel.machine import foreign_part, run, save

WEB, ROOT = "LB-S-web", "LB-PREROUTING"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
JUMPS = {"nat": ("PREROUTING", "POSTROUTING"), "filter": ("INPUT", "FORWARD")}


@dataclass(frozen=True, slots=True)
class Host:
    """The machine in whose namespace the caller stands."""

    flavour: Flavour

    def iptables(self, *words: str, table: str = "nat", family: Family = Family.IPV4) -> None:
        tool = "iptables" if family is Family.IPV4 else "ip6tables"
        run(f"{tool}-{self.flavour}", "-w", "5", "-t", table, *words)

    def rules(self, chain: str, *, table: str = "nat", family: Family = Family.IPV4) -> list[list[str]]:
        """The words behind `-A CHAIN` of each rule."""
        block = save(self.flavour, family=family).split(f"*{table}\n")[1].split("COMMIT\n")[0]
        found = [line.split(" ", 2) for line in block.splitlines() if line.startswith(f"-A {chain} ")]
        return [rest.split() for _, _, rest in found]


def drop_jumps(host: Host) -> None:
    for table, builtins in JUMPS.items():
        for builtin in builtins:
            host.iptables("-D", builtin, "-j", f"LB-{builtin}", table=table)


def flush_everything(host: Host) -> None:
    for table in JUMPS:
        host.iptables("-F", table=table)
        host.iptables("-X", table=table)


def load_foreign_only(host: Host) -> None:
    """As netfilter-persistent does with the rules of the last boot."""
    text = foreign_part(save(host.flavour, counters=True))
    run(f"iptables-{host.flavour}-restore", "-w", "5", "-c", text=f"{text}\n")


def swap_two_rules(host: Host) -> None:
    first = host.rules(WEB)[0]
    host.iptables("-D", WEB, "1")
    host.iptables("-A", WEB, *first)


def delete_service_chain(host: Host) -> None:
    """With all that leads to it, and what it leads to."""
    for chain in _own_chains(host):
        host.iptables("-F", chain)
    for chain in _own_chains(host):
        if chain.startswith(WEB):
            host.iptables("-X", chain)


def destroy_sets(host: Host) -> None:
    """Only possible with the rules that use it."""
    flush_everything(host)
    for name in run("ipset", "list", "-n").split():
        run("ipset", "destroy", name)


def narrow_a_jump(host: Host) -> None:
    place = host.rules("PREROUTING").index(["-j", ROOT]) + 1
    host.iptables("-R", "PREROUTING", str(place), "-i", "eth9", "-j", ROOT)


def let_ipv6_go(host: Host) -> None:
    host.iptables("-F", "LB-S-web6", family=Family.IPV6)


def _own_chains(host: Host) -> list[str]:
    block = save(host.flavour).split("*nat\n")[1].split("COMMIT\n")[0]
    return [line[1:].split()[0] for line in block.splitlines() if line.startswith(":LB-")]


TAMPERING: Mapping[str, Callable[[Host], None]] = {
    "the jump from PREROUTING is deleted": lambda host: host.iptables("-D", "PREROUTING", "-j", ROOT),
    "all jumps are gone, as after a reload of Docker or firewalld": drop_jumps,
    "the rules of the last boot are loaded over ours": load_foreign_only,
    "a rule is slipped into our chain": lambda host: host.iptables(
        "-I", WEB, "1", "-s", "203.0.113.7/32", "-j", "RETURN"
    ),
    "clients are sent to a stranger": lambda host: host.iptables(
        "-I", WEB, "1", "-p", "tcp", "-j", "DNAT", "--to-destination", "10.9.9.9:80"
    ),
    "a rule of ours is deleted": lambda host: host.iptables("-D", WEB, "1"),
    "the order of rules is changed": swap_two_rules,
    "a chain is emptied": lambda host: host.iptables("-F", WEB),
    "the chains of a service are deleted": delete_service_chain,
    "the jump is there twice": lambda host: host.iptables("-A", "PREROUTING", "-j", ROOT),
    "the jump is narrowed to one interface": narrow_a_jump,
    "there is a chain with a name of ours that nobody wants": lambda host: host.iptables("-N", "LB-S-old"),
    "what lets balanced connections pass FORWARD is deleted": lambda host: host.iptables(
        "-D", "LB-FORWARD", "1", table="filter"
    ),
    "rules of IPv6 are flushed": let_ipv6_go,
    "a chain of ours is given another name": lambda host: host.iptables("-E", WEB, "STOLEN"),
    "forwarding is turned off": lambda host: void(FORWARDING.write_text("0")),
    # The rules of others are gone with these, so they come last.
    "every table is flushed and its chains are deleted": flush_everything,
    "the sets of clients are destroyed with the rules that use them": destroy_sets,
}
"""All of these are put right."""

HARMLESS: Mapping[str, Callable[[Host], None]] = {
    "a rule of somebody else's comes and goes": lambda host: host.iptables(
        "-A", "CHURN", "-s", "203.0.113.8/32", "-j", "RETURN"
    ),
    "the clients that we remember are forgotten": lambda host: void(run("ipset", "flush")),
    "the tables of the other flavour are flushed": lambda host: void(
        run(f"iptables-{host.flavour.other}", "-w", "5", "-F")
    ),
    "counters are set to zero": lambda host: host.iptables("-Z"),
}
"""These are no drift, and nothing is written because of them."""


def void(_: object) -> None:
    """Of a command whose answer nobody needs."""
