"""Others who change the firewall: rules of theirs that come before our jumps, and which programs they are."""

import re
from collections.abc import Iterator, Set
from pathlib import Path

from balancer.domain.types import Family
from balancer.kernel.plan import name_table
from balancer.ruleset.ir import OWN_PREFIX
from balancer.ruleset.parse import SavedTable, Snapshot

DROPS = frozenset({"DROP", "REJECT"})
TAKES = frozenset({"ACCEPT", "DNAT", "REDIRECT", "NETMAP", "DROP"})
"""Ends nat for a packet before we have chosen a backend for it."""
_INVALID_ONLY = re.compile(r"(?<!! )--ctstate INVALID(?: |$)")
"""Balanced packets never are: kube-proxy, for one, drops what is before it accepts anything."""
_DECIDES = {
    ("filter", "INPUT"): DROPS,
    ("filter", "FORWARD"): DROPS,
    ("filter", "OUTPUT"): DROPS,
    ("nat", "PREROUTING"): TAKES,
    ("nat", "OUTPUT"): TAKES,
    ("nat", "POSTROUTING"): frozenset({"ACCEPT"}),
    ("mangle", "FORWARD"): frozenset(),
}
"""Built-in chain -> targets that matter before our jump. In POSTROUTING a balanced packet may get another
source address than ours, but not none."""
_ALL_OF_THEM = "-j ACCEPT"
"""Before our jump in any chain: what we refuse, limit or drop there is let through."""
_CHAINS = {
    "firewalld": ("FWD_", "FORWARD_IN_ZONES", "INPUT_ZONES", "PREROUTING_ZONES", "PRE_public"),
    "Docker": ("DOCKER",),
    "Kubernetes": ("KUBE-",),
    "Calico": ("cali-",),
    "Cilium": ("CILIUM_",),
    "CNI plugins (Podman)": ("CNI-", "NETAVARK"),
    "ufw": ("ufw-",),
    "fail2ban": ("f2b-",),
    "libvirt": ("LIBVIRT_",),
    "Tailscale": ("ts-",),
}
"""Program -> how the names of its chains begin."""
_PROCESSES = {
    "firewalld": "firewalld",
    "dockerd": "Docker",
    "kube-proxy": "Kubernetes",
    "kubelet": "Kubernetes",
    "calico-node": "Calico",
    "cilium-agent": "Cilium",
    "fail2ban-server": "fail2ban",
    "libvirtd": "libvirt",
    "tailscaled": "Tailscale",
}
"""/proc/PID/comm -> program."""


def rules_before(snapshot: Snapshot, *, family: Family) -> tuple[str, ...]:
    """Rules of others that come before our jumps and may decide about balanced packets."""
    return tuple(
        f"{name_table(table, family=family)}: -A {builtin} {rule}"
        for (table, builtin), targets in _DECIDES.items()
        for rule in _before_jump(snapshot.table(table), builtin)
        if rule == _ALL_OF_THEM or may_end_in(rule, snapshot.table(table), targets)
    )


def may_end_in(rule: str, table: SavedTable, targets: Set[str], seen: frozenset[str] = frozenset()) -> bool:
    """Whether a packet that meets the rule may end in one of the targets, there or in the chains behind."""
    if _INVALID_ONLY.search(rule):
        return False
    target = _target(rule)
    if target in targets:
        return True
    if target in seen or target.startswith(OWN_PREFIX):
        return False
    return any(may_end_in(inner, table, targets, seen | {target}) for inner in table.chains.get(target, ()))


def find_programs(*snapshots: Snapshot, proc: Path = Path("/proc")) -> tuple[str, ...]:
    """Programs known to change firewalls: those that run on this machine, and those that have chains."""
    chains = {chain for held in snapshots for table in held.tables.values() for chain in table.chains}
    by_chain = {
        program
        for program, prefixes in _CHAINS.items()
        if any(chain.startswith(prefixes) for chain in chains)
    }
    return tuple(sorted(by_chain | {_PROCESSES[name] for name in _running(proc) if name in _PROCESSES}))


def _running(proc: Path) -> Iterator[str]:
    for entry in proc.glob("[0-9]*/comm"):
        try:
            yield entry.read_text().strip()
        except OSError:  # it has ended
            continue


def _before_jump(table: SavedTable, builtin: str) -> tuple[str, ...]:
    rules = table.chains.get(builtin, ())
    ours = {f"-j {chain}" for chain in table.jumps_to_own(builtin)}
    place = next((i for i, rule in enumerate(rules) if rule in ours), 0)
    return rules[:place]


def _target(rule: str) -> str:
    words = rule.split()
    return next((words[i] for i in range(len(words) - 1, 0, -1) if words[i - 1] in {"-j", "-g"}), "")
