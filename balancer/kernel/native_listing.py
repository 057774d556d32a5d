"""Reading native nftables rules: those of `nft`, firewalld or /etc/nftables.conf, and not of iptables-nft.

They are in no iptables-save, and they see the same packets: whatever iptables accepts, a native chain may
still drop. Read are only tables with a base chain of their own at a hook that balanced packets meet, with the
elements of such sets only as a rule names. Nothing here raises: what cannot be read is said in `not_read`, so
that nobody takes silence for an answer.
"""

import json
import re
import resource
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from balancer.kernel.base import KernelError, OutcomeUnknown, Rejected
from balancer.kernel.tools import find_tool, start_tool

HOOKS = ("prerouting", "forward", "input", "output", "postrouting")
FAMILIES = ("ip", "ip6", "inet")
SECONDS_MAX = 5.0
"""For one look, all tables together."""
CHARACTERS_MAX = 8_000_000
"""Of one listing: some 30,000 rules. What is longer is killed and named."""
SCHEMA_KNOWN = 1
"""libnftables-json(5): `json_schema_version`."""
TEXT_MAX = 300
HEAVY_SECONDS = 0.15
"""Of a processor, to list one table without elements: there are tens of thousands of them, or of rules."""
ELEMENTS_MAX = 500
"""Of a named set of which the elements are read."""

_IPTABLES_TABLES = {"filter", "nat", "mangle", "raw", "security"}
_IPTABLES_CHAINS = {hook.upper() for hook in HOOKS}
_RULE = re.compile(r"^\t\t(.*) # handle (\d+)$", re.MULTILINE)
_FLAGS = re.compile(r"^\tflags (.*)$", re.MULTILINE)

Statement = Mapping[str, Any]
"""One statement of a rule, as libnftables-json(5) has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeRule:
    chain: str
    handle: int
    """By which `nft delete rule` knows it."""
    text: str
    """As nft spells it, without counters: `tcp dport 80 drop`."""
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChain:
    """Where packets come in."""

    family: str
    """ip, ip6 or inet."""
    table: str
    name: str
    kind: str
    """filter, nat or route."""
    hook: str
    priority: int
    policy: str = "accept"

    @property
    def place(self) -> str:
        """As commands of nft have it: `inet filter forward`."""
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeTable:
    family: str
    name: str
    bases: tuple[BaseChain, ...]
    rules: Mapping[str, tuple[NativeRule, ...]] = field(default_factory=dict)
    """Chain, base or not -> its rules."""
    elements: Mapping[str, tuple[Any, ...] | None] = field(default_factory=dict)
    """Named set or map of which the elements were asked for -> these; None where they are too many."""
    flags: frozenset[str] = frozenset()
    """`owner`: only one program may change it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """What one look found."""

    tables: tuple[NativeTable, ...] = ()
    not_read: tuple[str, ...] = ()
    """Sentences: what could not be read, and why."""


class _Unreadable(Exception):
    """In words, to complete a sentence."""


def read_native() -> Native:
    """Of the network namespace of the calling thread, whose kernel has nf_tables. Never raises."""
    if find_tool("nft") is None:
        words = (
            "Rules made by nft, firewalld or /etc/nftables.conf are not looked at, as the program nft is not"
            " installed: install the package nftables."
        )
        return Native(not_read=(words,))
    until = time.monotonic() + SECONDS_MAX
    try:
        bases = [chain for chain in _list_chains(until=until) if not _is_of_iptables(chain)]
    except _Unreadable as error:
        return Native(not_read=(f"Rules made by nft are not looked at: {error}.",))
    found, not_read = [], []
    for family, name in sorted({(chain.family, chain.table) for chain in bases}):
        own = tuple(chain for chain in bases if (chain.family, chain.table) == (family, name))
        try:
            found.append(_read_table(family, name, own, until=until))
        except _Unreadable as error:
            not_read.append(f"The rules of table {family} {name} (nft) are not looked at: {error}.")
    tables = tuple(table for table in found if "dormant" not in table.flags)
    return Native(tables=tables, not_read=tuple(not_read))


def list_chain_names(*, family: str, table: str) -> tuple[str, ...] | None:
    """Of one table; None where that cannot be read."""
    try:
        found = _ask(["list", "chains", family], until=time.monotonic() + SECONDS_MAX)
        chains = [one["chain"] for one in found if "chain" in one]
        return tuple(str(chain["name"]) for chain in chains if chain["table"] == table)
    except (_Unreadable, KeyError, TypeError):
        return None


def _list_chains(*, until: float) -> Iterator[BaseChain]:
    for one in _ask(["list", "chains"], until=until):
        chain = one.get("chain")
        if chain and chain.get("hook") in HOOKS and chain.get("family") in FAMILIES:
            yield BaseChain(
                family=chain["family"],
                table=tidy(chain["table"]),
                name=tidy(chain["name"]),
                kind=str(chain.get("type", "")),
                hook=chain["hook"],
                priority=_number(chain.get("prio")),
                policy=str(chain.get("policy", "accept")),
            )


def _is_of_iptables(chain: BaseChain) -> bool:
    """iptables-nft makes its base chains in tables that anybody may add others to."""
    return (
        chain.family in {"ip", "ip6"}
        and chain.table in _IPTABLES_TABLES
        and chain.name in _IPTABLES_CHAINS
        and chain.name.lower() == chain.hook
    )


def _read_table(family: str, name: str, bases: tuple[BaseChain, ...], *, until: float) -> NativeTable:
    started = _seconds_of_tools()
    listed = _ask(["list", "table", family, name], until=until)
    # Even terse, nft 1.0 fetches all elements from the kernel: asking for them again is not worth it.
    is_heavy = _seconds_of_tools() - started > HEAVY_SECONDS
    text = _run(["-s", "-t", "-a", "list", "table", family, name], until=until)
    spelled = {int(handle): words for words, handle in _RULE.findall(text)}
    rules: dict[str, list[NativeRule]] = {}
    asked: dict[str, str] = {}
    for one in listed:
        rule = one.get("rule")
        if rule is None:
            continue
        statements = tuple(s for s in rule.get("expr", ()) if isinstance(s, dict))
        chain, handle = str(rule["chain"]), _number(rule.get("handle"))
        words = tidy(spelled.get(handle) or json.dumps(rule.get("expr")))[:TEXT_MAX]
        kept = NativeRule(chain=chain, handle=handle, text=words, statements=statements)
        rules.setdefault(chain, []).append(kept)
        asked |= dict(_named_sets(statements))
    flags = _FLAGS.search(text.partition("chain ")[0])
    return NativeTable(
        family=family,
        name=name,
        bases=bases,
        rules={chain: tuple(found) for chain, found in rules.items()},
        elements={
            named: None if is_heavy else _read_elements(kind, family, name, named, until=until)
            for named, kind in sorted(asked.items())
        },
        flags=frozenset(re.findall(r"[a-z]+", flags[1])) if flags else frozenset(),
    )


def _seconds_of_tools() -> float:
    """Of a processor, that programs took which have ended; no busy machine makes it more."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _named_sets(statements: Sequence[Statement]) -> Iterator[tuple[str, str]]:
    """Of which the elements matter: where jumps lead, and addresses, interfaces or ports that are matched."""
    for statement in statements:
        for key, value in statement.items():
            if key == "vmap" and isinstance(value, dict) and _is_name(value.get("data")):
                yield value["data"][1:], "map"
            elif key == "match" and isinstance(value, dict) and _is_name(value.get("right")):
                yield value["right"][1:], "set"


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.startswith("@")


def _read_elements(kind: str, family: str, table: str, name: str, *, until: float) -> tuple[Any, ...] | None:
    try:
        for one in _ask(["list", kind, family, table, name], until=until, terse=False):
            found = one.get(kind)
            if found is not None:
                elements = found.get("elem", ())
                return tuple(elements) if len(elements) <= ELEMENTS_MAX else None
    except (_Unreadable, TypeError):
        return None
    return None


def _ask(arguments: list[str], *, until: float, terse: bool = True) -> list[Mapping[str, Any]]:
    """The objects that nft lists. Raises _Unreadable."""
    text = _run(["-j", *(["-t"] if terse else []), *arguments], until=until)
    try:
        found = json.loads(text)["nftables"]
        about = next((one["metainfo"] for one in found if "metainfo" in one), {})
        if _number(about.get("json_schema_version", SCHEMA_KNOWN)) > SCHEMA_KNOWN:
            raise _Unreadable(
                f"nft {about.get('version', '')} speaks schema {about['json_schema_version']} of its JSON,"
                f" and this lbadmin knows {SCHEMA_KNOWN}"
            )
        return [one for one in found if isinstance(one, dict)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Unreadable(
            f"what “nft -j {' '.join(arguments)}” says cannot be understood ({error!r})"
        ) from error


def _run(arguments: list[str], *, until: float) -> str:
    """What nft prints. Raises _Unreadable where it fails, takes too long or says too much."""
    left = until - time.monotonic()
    if left <= 0:
        raise _Unreadable(f"reading took longer than {SECONDS_MAX:g} seconds")
    try:
        return read_bounded(["nft", *arguments], seconds=left)
    except KernelError as error:
        raise _Unreadable(str(error).rstrip(".")) from error


def read_bounded(arguments: list[str], *, seconds: float, characters: int = CHARACTERS_MAX) -> str:
    """What a tool that only reads prints.

    Raises Rejected where it fails or says more, OutcomeUnknown where it was killed at the time limit.
    """
    tool = start_tool(arguments)
    late = threading.Event()

    def kill() -> None:
        late.set()
        tool.kill()

    watch = threading.Timer(seconds, kill)
    watch.start()
    try:
        with tool:
            assert tool.stdout is not None
            assert tool.stderr is not None
            text = tool.stdout.read(characters + 1)
            if len(text) > characters:
                tool.kill()
                raise Rejected(f"there are too many rules: they take more than {characters:,} characters")
            errors = tool.stderr.read()
    finally:
        watch.cancel()
    if late.is_set():
        raise OutcomeUnknown(f"{arguments[0]} did not finish within {SECONDS_MAX:g} seconds")
    if tool.returncode != 0:
        raise Rejected(f"{arguments[0]} said: {errors.strip()[:TEXT_MAX] or tool.returncode}")
    return text


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def tidy(text: object) -> str:
    """On one line, and printable."""
    return "".join(c if c.isprintable() else "?" for c in str(text))
