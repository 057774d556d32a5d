"""In which order the chains of a table are written, so that very many of them take seconds and not minutes.

Any order gives the same table. But iptables-nft-restore keeps the names that were mentioned in a sorted list,
which it walks from its beginning at every line: where names come from the last to the first, that walk is
short. And iptables-nft-save sorts chains by a quicksort whose pivot is the chain that was made first: chains
that were made in their order are its worst case (both iptables/nft-cache.c, 1.8.9). At 37,000 chains either
takes some seconds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from balancer.kernel.plan import destination_of

_PIVOTS = 255


def pivots(chains: Iterable[str]) -> tuple[str, ...]:
    """Chains to be made before all others: the middle one, then the middles of both halves, and so on."""
    ordered = sorted(chains)
    return tuple(ordered[i] for i in _middles(len(ordered), most=_PIVOTS))


def leaves_first(chains: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Chain -> rules, from the last name to the first, but each behind those that its rules lead to."""
    leads = {
        chain: {destination_of(rule) for rule in rules} & chains.keys() for chain, rules in chains.items()
    }
    done: dict[str, None] = {}
    for chain in sorted(chains, reverse=True):
        waiting = [] if chain in done else [chain]
        while waiting:
            before = leads[waiting[-1]].difference(done, waiting)
            if before:
                waiting.append(max(before))
            else:
                done[waiting.pop()] = None
    return tuple(done)


def _middles(count: int, *, most: int) -> Iterator[int]:
    parts = [(0, count)]
    for low, high in parts:
        if low < high and most > 0:
            most -= 1
            middle = (low + high) // 2
            parts += [(low, middle), (middle + 1, high)]
            yield middle
