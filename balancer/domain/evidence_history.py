"""Checks of an evidence file against audit events: those in it, and those of a later export."""

from balancer.domain.chain import Event, hash_event, verify_part
from balancer.domain.codec import digest_text
from balancer.domain.evidence import SEALED, Data, event_of_data
from balancer.domain.evidence_findings import count, is_about, require


def check_receipts(data: Data) -> str:
    done = [job for job in data["jobs"] if job["state"] == "succeeded"]
    for job in done:
        texts = data["revision"]["rulesets"] if job["carried"] is None else job["carried"]
        require(
            bool(texts) and set(texts) == set(job["receipt"]), f"{job['node']} has no receipt for its rules."
        )
        for family, text in texts.items():
            require(
                job["receipt"][family]["ruleset_digest"] == digest_text(text),
                f"The receipt of {job['node']} is about other rules than the compiled ones ({family}).",
            )
    require(
        data["deployment"]["state"] != "succeeded" or bool(done),
        "The deployment succeeded, and no node has a receipt.",
    )
    return f"The receipts of {count(len(done), 'node')} name exactly the compiled rules."


def check_events(data: Data) -> str:
    events = [event_of_data(event) for event in data["events"]]
    for event in events:
        require(
            hash_event(event) == event.hash, f"Event {event.number} was altered: it does not give its hash."
        )
    verdict = verify_part(events)
    require(verdict.fault is None, verdict.fault.message if verdict.fault else "")
    require(bool(events), "There is no audit event in the file.")
    head = data["head"]
    last = events[-1]
    require(
        last.number < head["number"] or (last.number, last.hash) == (head["number"], head["hash"]),
        "The head of the chain is before the events in the file.",
    )
    return f"{count(len(events), 'audit event')} give their hashes, and link where they follow each other."


def check_story(data: Data) -> str:
    """What the file says must be what the events say that people and nodes did."""
    events, revision, deployment = data["events"], data["revision"], data["deployment"]
    for vote in data["votes"]:
        facts = {"digest": vote["digest"], "reason": vote["reason"], "review": vote["review"]}
        require(
            any(_is_vote(e, vote) and e["facts"] == facts and is_about(e, data) for e in events),
            f"No audit event says that {vote['by']['name']} voted so.",
        )
    made = [e["facts"] for e in events if e["action"] == "revision.created"]
    require(
        any((f["number"], f["digest"]) == (revision["number"], revision["digest"]) for f in made),
        f"No audit event says that revision {revision['number']} with this digest was made.",
    )
    asked = {deployment["requested_by"]["id"], None}
    started = [e for e in events if e["action"] == "deployment.started" and is_about(e, data)]
    require(
        any(e["actor_id"] in asked and e["facts"]["revision"] == revision["number"] for e in started),
        f"No audit event says that {deployment['requested_by']['name']} started this deployment.",
    )
    nodes = {job["node"] for job in data["jobs"]}
    require(
        set(started[-1]["facts"]["nodes"]) == nodes,
        "The nodes in the file are not those to which the deployment was sent.",
    )
    ended = {"change.applied"} if deployment["state"] == "succeeded" else {"change.failed"}
    require(
        any(e["action"] in ended for e in events),
        f"No audit event says that it ended as {deployment['state']}.",
    )
    for job in data["jobs"]:
        require(
            job["state"] not in ("succeeded", "failed")
            or any(e["action"] == f"job.{job['state']}" and e["object_id"] == job["id"] for e in events),
            f"No audit event says that the job of {job['node']} {job['state']}.",
        )
    return "Votes, revision, start, end and jobs are what the audit events say."


def check_export(events: list[Event]) -> str:
    verdict = verify_part(events)
    require(verdict.fault is None, verdict.fault.message if verdict.fault else "")
    require(bool(events), "The export is empty.")
    return f"The export's chain is intact ({count(len(events), 'event')})."


def check_in_export(data: Data, by_number: dict[int, Event]) -> str:
    for entry in [*data["events"], data["head"]]:
        kept = by_number.get(entry["number"])
        require(kept is not None, f"Event {entry['number']} of the file is not in the export.")
        require(
            kept is not None and kept.hash == entry["hash"],
            f"Event {entry['number']} is another one in the export.",
        )
    listed = {entry["number"] for entry in data["events"]}
    for number, event in by_number.items():
        require(
            number in listed or number > data["head"]["number"] or not _belongs(event, data),
            f"Event {number} of the export is about this deployment, and the file leaves it out.",
        )
    return "Every event about the deployment is in the export as it is in the file."


def check_seal(data: Data, events: list[Event], *, sha256: str) -> str:
    wanted = str(data["deployment"]["id"])
    sealed = [
        e for e in events if e.action == SEALED and e.object_id == wanted and e.object_type == "deployment"
    ]
    require(bool(sealed), f"The export has no event that seals the evidence of deployment {wanted}.")
    require(len(sealed) == 1, f"The export seals the evidence of deployment {wanted} more than once.")
    require(
        sealed[0].facts["sha256"] == sha256, "The file is not the one whose SHA-256 was sealed in the chain."
    )
    require(sealed[0].number > data["head"]["number"], "The file was sealed before it was made.")
    return f"Event {sealed[0].number} of the chain holds the SHA-256 of this very file."


def _belongs(event: Event, data: Data) -> bool:
    jobs = {("job", job["id"]) for job in data["jobs"]}
    rows = {("change", str(data["change"]["id"])), ("deployment", str(data["deployment"]["id"]))}
    return (event.object_type, event.object_id) in rows | jobs


def _is_vote(event: Data, vote: Data) -> bool:
    actions = {
        "approve": "change.approved",
        "reject": "change.rejected",
        "request-changes": "change.sent_back",
    }
    return bool(event["action"] == actions[vote["verdict"]] and event["actor_id"] == vote["by"]["id"])
