"""New flows a second at the last of many services: our tree, a list of the same services, one service alone.

Every packet is the first of a UDP flow. FORWARD drops it after nat, so no flow is ever established and each
packet meets the nat table. Ratios within one run are what counts; the figures themselves are this machine's.
"""

import re
import subprocess
import sys
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

from balancer.domain.codec import parse_document
from balancer.domain.types import Document
from balancer.lab.plan import Balancer
from balancer.lab.topology import Lab
from balancer.ruleset import names
from balancer.ruleset.compile import compile_document
from balancer.ruleset.ir import Goto, PortRange, Rule, Ruleset, TableName
from balancer.ruleset.render import render_ruleset

FIRST_PORT = 10_000
ROUNDS = 3
_ROOT = Path(__file__).resolve().parents[2]
_EMPTY = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\n*nat\nCOMMIT\n"


@dataclass(frozen=True, slots=True)
class Layout:
    title: str
    ruleset: Ruleset
    packets: int


def compare_layouts(*, lab: Lab, flavour: str, services: int) -> dict[str, float]:
    """Title -> packets a second, the median of ROUNDS; layouts take turns within a round."""
    port = FIRST_PORT + services - 1
    tree = compile_document(make_document(services))
    alone = compile_document(make_document(1, first_port=port))
    layouts = [
        Layout("one service alone", alone, 60_000),
        Layout(f"tree, last of {services}", tree, 60_000),
        Layout(f"list, last of {services}", as_list(tree, services), 2_000),
    ]
    rates: dict[str, list[float]] = {layout.title: [] for layout in layouts}
    for _ in range(ROUNDS):
        for layout in layouts:
            load(lab=lab, flavour=flavour, ruleset=layout.ruleset)
            rates[layout.title].append(flood(lab=lab, flavour=flavour, port=port, packets=layout.packets))
    return {title: median(found) for title, found in rates.items()}


def make_document(services: int, *, first_port: int = FIRST_PORT) -> Document:
    backends = [{"address": "10.0.0.3", "port": 53}, {"address": "10.0.0.4", "port": 53}]
    data = [
        {
            "name": f"s{i}",
            "interface": "eth0",
            "protocol": "udp",
            "port": first_port + i,
            "backends": backends,
        }
        for i in range(services)
    ]
    document, problems = parse_document({"services": data})
    if document is None:
        raise ValueError(problems)
    return document


def as_list(tree: Ruleset, services: int) -> Ruleset:
    """The same services behind a list of rules, one for each, as such rulesets are usually written."""
    rules = tuple(
        Rule(
            in_interface="eth0",
            protocol=service.protocol,
            destination_ports=PortRange(service.port, service.port),
            destination_local=True,
            target=Goto(names.service_chain(service.name)),
        )
        for service in sorted(make_document(services).services, key=lambda service: service.port)
    )
    nat = tree.table(TableName.NAT)
    chains = {name: found for name, found in nat.chains.items() if not name.startswith("LB-D-")}
    listed = replace(nat, chains={**chains, names.PREROUTING: rules})
    return replace(tree, tables=(tree.table(TableName.FILTER), listed))


def load(*, lab: Lab, flavour: str, ruleset: Ruleset) -> None:
    for name in ("legacy", "nft"):
        lab.run(machine="lb1", command=[f"iptables-{name}-restore"], text=_EMPTY)
    text = render_ruleset(ruleset).replace("-j ACCEPT", "-j DROP")
    lab.run(machine="lb1", command=[f"iptables-{flavour}-restore", "--noflush"], text=text)


def flood(*, lab: Lab, flavour: str, port: int, packets: int) -> float:
    """Packets a second. Raises when the balancer did not translate every one of them."""
    before = count_dropped(lab=lab, flavour=flavour)
    command = [sys.executable, "-m", "tests.bench.flood", "198.51.100.9", "10.0.0.1", str(port), str(packets)]
    done = subprocess.run(
        lab.command(machine="client", command=command), capture_output=True, text=True, check=True, cwd=_ROOT
    )
    reached = count_dropped(lab=lab, flavour=flavour) - before
    if reached != packets:
        raise RuntimeError(f"{packets} packets were sent, but {reached} were balanced.")
    return packets / float(done.stdout)


def count_dropped(*, lab: Lab, flavour: str) -> int:
    """Packets that were translated and then dropped by the rule that else accepts balanced connections."""
    text = lab.run(machine="lb1", command=[f"iptables-{flavour}-save", "-c", "-t", "filter"])
    found = re.search(r"^\[(\d+):\d+\] -A LB-FORWARD -m conntrack --ctstate DNAT .*DROP$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def main(services: int) -> None:
    print(f"New flows at the last of {services} services (packets a second, median of {ROUNDS} rounds)")
    with Lab(
        prefix="lbbench-", balancers=(Balancer(name="lb1", lan_address=IPv4Address("10.0.0.1")),)
    ) as lab:
        for flavour in ("legacy", "nft"):
            rates = compare_layouts(lab=lab, flavour=flavour, services=services)
            alone, tree, listed = rates.values()
            print(f"\niptables-{flavour}")
            for title, rate in rates.items():
                print(f"  {title:<24} {rate:>10,.0f}")
            print(f"  tree / alone {tree / alone:.2f}    tree / list {tree / listed:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
