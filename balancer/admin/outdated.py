"""The note about rules that another lbadmin compiled, for the pages of what is live."""

from typing import Any

from balancer.models import Cluster
from balancer.workflow.revisions import live_revision, why_outdated


def outdated_in(cluster: Cluster) -> dict[str, Any]:
    """For console/outdated_note.html; an empty sentence where the live rules are those of this lbadmin."""
    live = live_revision(cluster)
    return {"outdated": why_outdated(live), "outdated_revision": live}
