"""Backends that are down and daemons that are not heard of, for lists of nodes and the dashboard."""

from collections.abc import Iterable, Mapping
from typing import Any

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from balancer.admin.chips import chip
from balancer.models import Cluster, Node
from balancer.workflow import queries
from balancer.workflow.queries import Watch

SHOWN = 10


def watch_chips(node: Node, watched: Mapping[int, Watch]) -> SafeString:
    """Of the backends of one node, as it sees them, and of what is missing there."""
    watch = watched.get(node.pk)
    if watch is None:
        return format_html('<span class="lb-muted">{}</span>', "Nothing yet")
    found = [_health_chip(watch)]
    if watch.uncounted:
        found.append(chip("Not counted", "warn", "cloud_off"))
    if len(found) == 1:
        return found[0]
    return format_html('<span class="lb-chips">{}</span>', format_html_join("", "{}", ((c,) for c in found)))


def watch_of_cluster(cluster: Cluster) -> dict[str, Any]:
    """What console/watch_notes.html wants, and the tile of backends."""
    watched = queries.watch_nodes(cluster=cluster)
    down = _by_backend(watched.values())
    return {
        "watched": watched,
        "down": down[:SHOWN],
        "down_count": len(down),
        "down_left_out": len(down[SHOWN:]),
        "unwatched": [watch for watch in watched.values() if watch.unchecked or watch.uncounted],
    }


def _health_chip(watch: Watch) -> SafeString:
    if watch.unchecked:
        return chip("Not checked", "bad", "cloud_off")
    if watch.down:
        return chip(f"{len(watch.down)} of {watch.checked} down", "bad", "error")
    if watch.checked:
        return chip("All up", "ok", "check_circle")
    return chip("No checks", "idle")


def _by_backend(watched: Iterable[Watch]) -> list[dict[str, Any]]:
    """Each backend once, with the nodes on which it is down and the reason that the first of them gives."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for watch in watched:
        for one in watch.down:
            shown = found.setdefault((one.service, one.endpoint), {"backend": one, "nodes": []})
            shown["nodes"].append(watch.node.name)
    return [found[key] for key in sorted(found)]
