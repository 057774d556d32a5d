"""The same attacks at lbadmin and at HAProxy in TCP mode: `python -m tests.bench.attacks [ROUNDS]`.

Malformed packets, a flood of SYNs at backends with and without SYN cookies of their own, and a list of 10,000
denied networks. Each contender has a lab of its own, and they take turns with the lists. Prints a table in
Markdown; the figures are this machine's.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_network
from itertools import product
from pathlib import Path
from random import Random
from statistics import median

from balancer.domain.types import Family
from balancer.kernel.base import Flavour
from tests.kernel.attacks.flood import Outcome, flood
from tests.kernel.attacks.kinds import kinds
from tests.kernel.attacks.scene import PLAIN, PROXIED, Scene

SECONDS, RATE, HONEST = 5.0, 30_000, 300
NETWORKS = 10_000
CONNECTIONS = 500


class HAProxyScene(Scene):
    """HAProxy instead of rules: it accepts on the node, and connects to the backend itself."""

    ports = (PLAIN,)
    settles = 0.03

    def carry(self, *, deny: Sequence[str] = ()) -> None:
        """Starts it, anew where it runs."""
        self.stop()
        (self.directory / "deny.lst").write_text("".join(f"{network}\n" for network in deny))
        (self.directory / "haproxy.cfg").write_text(self._configuration())
        with self.node.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
            self._running = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "haproxy", "-db", "-f", self.directory / "haproxy.cfg"],
                stdin=subprocess.DEVNULL,
            )
        for _ in range(200):
            try:
                self.connect(PLAIN, timeout=0.5).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("HAProxy did not begin to listen")

    def _configuration(self) -> str:
        def at(address: str, port: int) -> str:
            return f"{address if self.family is Family.IPV4 else f'[{address}]'}:{port}"

        return "\n".join(
            [
                "global",
                "  maxconn 4000",
                "defaults",
                "  mode tcp",
                "  timeout connect 5s",
                "  timeout client 1h",
                "  timeout server 1h",
                "listen plain",
                f"  bind {at(self.service, PLAIN)}",
                f"  tcp-request connection reject if {{ src -f {self.directory / 'deny.lst'} }}",
                f"  server one {at(self.server, 8080)}",
                "",
            ]
        )

    def spent(self) -> float:
        """utime and stime of proc(5)."""
        fields = Path(f"/proc/{self._running.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        running = getattr(self, "_running", None)
        if running is not None:
            running.kill()
            running.wait()

    def close(self) -> None:
        self.stop()
        super().close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    title: str
    scene: Scene
    port: int


@dataclass(slots=True, kw_only=True)
class Row:
    """What is said of a contender."""

    title: str
    kinds: int
    through: list[str]
    floods: list[Outcome]
    denied: str
    kept: float
    """Processor time of an honest connection with the list, as a share of that without."""


def measure(contender: Contender, rounds: int) -> Row:
    scene, port = contender.scene, contender.port
    sent = kinds(scene.family)
    through = [name for name, kind in sent.items() if scene.attack(kind, port=port)]
    assert scene.ask(port), "the honest client's connection"
    floods = []
    for cookies in (True, False):
        with nullcontext() if cookies else scene.without_cookies():
            floods.append(flood(scene, port=port, rate=RATE, seconds=SECONDS, honest=HONEST))
        time.sleep(1)
    denied, kept = measure_list(contender, rounds)
    return Row(
        title=contender.title, kinds=len(sent), through=through, floods=floods, denied=denied, kept=kept
    )


def measure_list(contender: Contender, rounds: int) -> tuple[str, float]:
    scene, networks = contender.scene, denied_networks(contender.scene)
    shares = []
    for _ in range(rounds):
        scene.carry()
        without = cost_of(contender)
        scene.carry(deny=networks)
        shares.append(cost_of(contender) / without)
    said = what_the_denied_see(contender)
    scene.carry()
    return said, median(shares)


def denied_networks(scene: Scene) -> list[str]:
    """The attacker, and networks of others."""
    chance = Random(7)
    wide, bits = ("64.0.0.0/3", 24) if scene.family is Family.IPV4 else ("2400::/12", 64)
    base = ip_network(wide)
    found = {scene.places.far(scene.places.attacker) + ("/32" if base.version == 4 else "/128")}
    while len(found) < NETWORKS:
        place = chance.randrange(2 ** (bits - base.prefixlen)) << (base.max_prefixlen - bits)
        found.add(f"{base.network_address + place}/{bits}")
    return sorted(found)


def cost_of(contender: Contender) -> float:
    """Processor time of an honest connection with a question and an answer, whoever spends it.

    Packets cross the node in the system calls of client and server, who are this process.
    """
    scene = contender.scene
    before = time.process_time() + scene.spent()
    for _ in range(CONNECTIONS):
        with scene.connect(contender.port) as one:
            one.sendall(b"ping")
            assert one.recv(4) == b"ping"
    return (time.process_time() + scene.spent() - before) / CONNECTIONS


def what_the_denied_see(contender: Contender) -> str:
    try:
        with contender.scene.connect(contender.port, timeout=1.5, attacker=True) as one:
            one.sendall(b"ping")
            return "is accepted, then closed" if not one.recv(4) else "is served"
    except TimeoutError:
        return "gets no answer"
    except OSError as error:
        return "is accepted, then reset" if error.errno == errno.ECONNRESET else str(error.strerror)


@contextmanager
def contenders(directory: Path) -> Iterator[list[Contender]]:
    found = []
    with ExitStack() as stack:
        for flavour, family in product(Flavour, Family):
            own = directory / f"{flavour}-{family}"
            own.mkdir()
            scene = Scene(flavour=flavour, family=family, directory=own)
            stack.callback(scene.close)
            name = f"lbadmin, {flavour}, {family}"
            found.append(Contender(title=name, scene=scene, port=PLAIN))
            found.append(Contender(title=f"{name}, SYN proxy", scene=scene, port=PROXIED))
        for family in Family:
            own = directory / f"haproxy-{family}"
            own.mkdir()
            other = HAProxyScene(flavour=Flavour.NFT, family=family, directory=own)
            stack.callback(other.close)
            found.append(Contender(title=f"HAProxy, {family}", scene=other, port=PLAIN))
        yield found


_HEAD = (
    "contender",
    "malformed kinds that reach a backend",
    "SYN flood: honest connections that work, backends with SYN cookies",
    "the same, backends without",
    "SYNs of the flood that reach a backend",
    "processor time for each SYN",
    "a denied client",
    "processor time of an honest connection with the list, against without",
)


def show(rows: Sequence[Row]) -> str:
    lines = [f"| {' | '.join(_HEAD)} |", "|---" * len(_HEAD) + "|"]
    for row in rows:
        with_cookies, without = row.floods
        cells = (
            row.title,
            f"{len(row.through)} of {row.kinds}",
            _worked(with_cookies),
            _worked(without),
            f"{100 * with_cookies.came / with_cookies.sent:.0f} %",
            f"{with_cookies.cost * 1e6:.1f} µs",
            row.denied,
            f"{100 * row.kept:.0f} %",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _worked(found: Outcome) -> str:
    share = f"{100 * found.answered / found.tried:.0f} %"
    return f"{share} (slowest {found.worst:.2f} s)" if found.answered else share


def main() -> None:
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if shutil.which("haproxy") is None:
        sys.exit("The program haproxy is not installed. Run sudo script/setup --test.")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = []
    with tempfile.TemporaryDirectory() as directory, contenders(Path(directory)) as found:
        for contender in found:
            rows.append(measure(contender, rounds))
            print(f"{contender.title}: done", *rows[-1].through, sep="\n  came through: ", file=sys.stderr)
    print(f"{RATE:,} SYNs a second for {SECONDS:g} seconds; {NETWORKS:,} networks denied.\n\n{show(rows)}")


if __name__ == "__main__":
    main()
