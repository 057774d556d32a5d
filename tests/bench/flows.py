"""New flows a second at the last of many services: our tree, a list of the same services, one service alone.

Every packet is the first of a UDP flow. FORWARD drops it after nat, so no flow is ever established and each
packet meets the nat table. Every layout has a balancer of its own, where it stays loaded; they take turns,
and within each round the rates are divided by that of one service alone. Processor time is counted, so that
other work on the machine hardly matters. Ratios are what counts; the figures are this machine's.
"""

import re
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

from balancer.lab.machines import Balancer
from balancer.lab.topology import Lab
from balancer.ruleset.render import render_ruleset
from balancer.ruleset.sets import sets_of
from tests.bench.layouts import Layout, make_layouts

ROUNDS = 5
FLAVOURS = ("legacy", "nft")
_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = "198.51.100.9"
_WARM = 50
_LOAD_SECONDS = 300
_BALANCED = re.compile(r"^(-A LB-FORWARD -m conntrack --ctstate DNAT .*-j )ACCEPT$", re.MULTILINE)

Rates = dict[str, list[float]]
"""Title -> packets a second in each round."""


def measure(*, flavour: str, layouts: tuple[Layout, ...]) -> Rates:
    balancers = tuple(
        Balancer(name=f"lb{i}", lan_address=IPv4Address(f"10.0.0.{101 + i}")) for i in range(len(layouts))
    )
    rates: Rates = {layout.title: [] for layout in layouts}
    with Lab(prefix="lbbench-", balancers=balancers) as lab:
        aims = {}
        for balancer, layout in zip(balancers, layouts, strict=True):
            load(lab=lab, machine=balancer.name, flavour=flavour, layout=layout)
            aims[layout.title] = aim_at(lab=lab, machine=balancer.name, layout=layout)
        for _ in range(ROUNDS):
            for balancer, layout in zip(balancers, layouts, strict=True):
                rate = flood(
                    lab=lab,
                    machine=balancer.name,
                    flavour=flavour,
                    aim=(aims[layout.title], layout.port),
                    packets=layout.packets,
                )
                rates[layout.title].append(rate)
    return rates


def load(*, lab: Lab, machine: str, flavour: str, layout: Layout) -> None:
    sets = "".join(
        f"create {one.name} hash:ip family inet timeout 300 maxelem 1048576\n"
        for one in sets_of(layout.ruleset)
    )
    for name, networks in layout.ruleset.lists.items():
        sets += f"create {name} hash:net family inet hashsize 16384\n"
        sets += "".join(f"add {name} {network}\n" for network in networks)
    lab.run(machine=machine, command=["ipset", "restore"], text=sets)
    text = _BALANCED.sub(r"\1DROP", render_ruleset(layout.ruleset))
    lab.run(
        machine=machine,
        command=[f"iptables-{flavour}-restore", "--noflush"],
        text=f"*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\n*nat\nCOMMIT\n{text}",
        timeout=_LOAD_SECONDS,
    )


def aim_at(*, lab: Lab, machine: str, layout: Layout) -> str:
    """Where the client sends; it knows the way there."""
    own = str(lab.topology.address(machine, "eth0"))
    if layout.address is None:
        return own
    lab.run(machine="client", command=["ip", "route", "add", f"{layout.address}/32", "via", own])
    return str(layout.address)


def flood(*, lab: Lab, machine: str, flavour: str, aim: tuple[str, int], packets: int) -> float:
    """Packets a second. Raises when the balancer did not translate every one of them."""
    send(lab=lab, aim=aim, packets=_WARM)
    before = count_dropped(lab=lab, machine=machine, flavour=flavour)
    seconds = send(lab=lab, aim=aim, packets=packets)
    reached = count_dropped(lab=lab, machine=machine, flavour=flavour) - before
    if reached != packets:
        raise RuntimeError(f"{packets} packets were sent, but {reached} were balanced.")
    return packets / seconds


def send(*, lab: Lab, aim: tuple[str, int], packets: int) -> float:
    """Seconds of processor time."""
    arguments = (_SOURCE, aim[0], str(aim[1]), str(packets))
    command = lab.command(machine="client", command=[sys.executable, "-m", "tests.bench.flood", *arguments])
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=_ROOT)
    return float(done.stdout)


def count_dropped(*, lab: Lab, machine: str, flavour: str) -> int:
    """Packets that were translated and then dropped by the rule that else accepts balanced connections."""
    text = lab.run(machine=machine, command=[f"iptables-{flavour}-save", "-c", "-t", "filter"])
    found = re.search(r"^\[(\d+):\d+\] -A LB-FORWARD -m conntrack --ctstate DNAT .*DROP$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def share(rates: Rates, title: str, of: str) -> float:
    """The median over the rounds of how the two compare in one round."""
    return median(mine / other for mine, other in zip(rates[title], rates[of], strict=True))


def main(services: int) -> None:
    layouts = make_layouts(services)
    print(f"New flows a second of processor time: medians of {ROUNDS} rounds, and beside one service alone")
    print(f"{'':<42}" + "".join(f"{flavour:>12} {'':<7}" for flavour in FLAVOURS))
    found = {flavour: measure(flavour=flavour, layouts=layouts) for flavour in FLAVOURS}
    alone, tree, listed = layouts[0].title, layouts[1].title, layouts[4].title
    for layout in layouts:
        cells = (
            f"{median(rates[layout.title]):>12,.0f} {share(rates, layout.title, alone):<7.2f}"
            for rates in found.values()
        )
        print(f"{layout.title:<42}" + "".join(cells))
    for flavour, rates in found.items():
        print(
            f"iptables-{flavour}: tree / alone {share(rates, tree, alone):.2f} (wanted 0.90),"
            f" tree / list {share(rates, tree, listed):.1f} (wanted 25)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
