"""Checks of an evidence file: what was proposed, what people said to it, and what came of trying it out."""

from datetime import datetime
from typing import Any

from balancer.domain.codec import dump_document, load_document, parse_service
from balancer.domain.digests import digest_proposal, digest_review, digest_revision
from balancer.domain.evidence import Data, describe_draft
from balancer.domain.evidence_findings import Wrong, count, is_about, require
from balancer.domain.policy import ApprovalPolicy, is_critical
from balancer.domain.types import Service


def check_revision(data: Data) -> str:
    revision = data["revision"]
    document, problems = load_document(revision["document"])
    if document is None:
        raise Wrong(f"The document is not valid: {problems[0]}")
    require(dump_document(document) == revision["document"], "The document is not in canonical form.")
    digest = digest_revision(document=revision["document"], rulesets=revision["rulesets"])
    require(
        digest == revision["digest"],
        "The document and the compiled rules do not give the digest of the revision.",
    )
    return f"Document and compiled rules give the digest of revision {revision['number']}."


def check_drafts(data: Data) -> str:
    document, _ = load_document(data["revision"]["document"])
    if document is None:
        raise Wrong("The document is not valid, so it cannot be compared with what was proposed.")
    carried = {service.name: service for service in document.services}
    for draft in data["drafts"]:
        name, before, after = draft["name"], _service(draft["before"]), _service(draft["after"])
        require(
            carried.get(after.name if after else name) == after,
            f"The document does not hold the service {name} as it was proposed.",
        )
        described = describe_draft(
            name=name,
            action=draft["action"],
            before=draft["before"],
            after=draft["after"],
            services=(before, after),
            rules=(draft["rules_before"], draft["rules"]),
        )
        require(described == draft, f"The differences of {name} are not those of what was proposed.")
    return f"What was proposed ({count(len(data['drafts']), 'service')}) is what the document holds."


def check_proposal(data: Data) -> str:
    change = data["change"]
    digest = digest_proposal(
        cluster=data["deployment"]["cluster"],
        kind=change["kind"],
        rollback_of=change["rollback_of"],
        rollback_services=change["rollback_services"],
        policy=data["policy"],
        drafts=data["drafts"],
    )
    require(digest == change["digest"], "What was proposed does not give the digest that people voted on.")
    for vote in data["votes"]:
        require(vote["digest"] == digest, f"The vote of {vote['by']['name']} is about something else.")
    return f"All {count(len(data['votes']), 'vote')} are about exactly what was proposed."


def check_approvals(data: Data) -> str:
    policy = ApprovalPolicy(**{**data["policy"], "groups": tuple(data["policy"]["groups"])})
    critical = is_critical(draft[side] for draft in data["drafts"] for side in ("before", "after"))
    required = policy.required(critical=critical)
    counted = [vote for vote in data["votes"] if _counts(vote, data=data, policy=policy)]
    names = ", ".join(vote["by"]["name"] for vote in counted)
    waiver = data["deployment"]["waiver"]
    if waiver is not None:
        return _judge_waiver(waiver, data=data)
    applied = any(job["state"] == "succeeded" for job in data["jobs"])
    require(
        len({vote["by"]["id"] for vote in counted}) >= required or not applied,
        f"The policy asks for {count(required, 'approval')} by people who did not write the change; there are"
        f" {len(counted)}.",
    )
    if len(counted) < required:
        return f"There are {len(counted)} of {required} approvals, and no node was changed."
    return f"It has {len(counted)} of {required} approvals, by people who did not write it{_by(names)}."


def _counts(vote: Data, *, data: Data, policy: ApprovalPolicy) -> bool:
    change = data["change"]
    writers = {change["author"]["id"], *(person["id"] for person in change["contributors"])}
    started = datetime.fromisoformat(data["deployment"]["created_at"])
    return (
        vote["verdict"] == "approve"
        and vote["by"]["id"] not in writers
        and vote["digest"] == change["digest"]
        and not policy.has_expired(at=datetime.fromisoformat(vote["at"]), now=started)
        and (not policy.groups or bool(set(policy.groups) & set(vote["groups"])))
    )


def _judge_waiver(waiver: Data, *, data: Data) -> str:
    """An emergency or the like is only believed where the chain says so too."""
    started = [e for e in data["events"] if e["action"] == "deployment.started" and is_about(e, data)]
    require(
        [e["facts"].get("waiver") for e in started] == [waiver["kind"]],
        "The file says that approvals were waived, and the audit history does not.",
    )
    return f"Approvals were waived ({waiver['kind']}) by {waiver['by']['name']}: {waiver['reason']}"


def check_late_reviews(data: Data) -> str:
    change = data["change"]
    writers = {change["author"]["id"], *(person["id"] for person in change["contributors"])}
    signed = [review for review in data["late_reviews"] if review["signed_by"] is not None]
    for review in signed:
        own = writers | {review["opened_by"]["id"]}
        require(
            review["signed_by"]["id"] not in own,
            f"{review['signed_by']['name']} signed a late review of their own doing.",
        )
    if not data["late_reviews"]:
        return "There is no late review to sign."
    return (
        f"{len(signed)} of {count(len(data['late_reviews']), 'late review')} were signed by a second person."
    )


def check_reviews(data: Data) -> str:
    digests = {review["digest"]: review["content"] for review in data["reviews"]}
    for digest, content in digests.items():
        require(digest_review(content) == digest, "What a reviewer was shown does not give its digest.")
        require(content["digest"] == data["change"]["digest"], "A reviewer was shown something else.")
    for vote in data["votes"]:
        require(
            vote["review"] is None or vote["review"] in digests,
            f"What {vote['by']['name']} was shown is not in the file.",
        )
    return f"What reviewers were shown ({count(len(digests), 'page')}) gives its digests."


def check_rehearsals(data: Data) -> str:
    rehearsals = data["rehearsals"]
    if rehearsals is None:
        return "No rehearsal was kept with this deployment."
    for rehearsal in rehearsals:
        require(
            rehearsal["digest"] == data["change"]["digest"],
            f"The rehearsal on {rehearsal['node']} was of something else.",
        )
    passed = sum(rehearsal["state"] == "passed" for rehearsal in rehearsals)
    return f"{passed} of {count(len(rehearsals), 'rehearsal')} passed, each of what was proposed."


def _service(data: Any) -> Service | None:
    if data is None:
        return None
    service, problems = parse_service(data)
    if service is None:
        raise Wrong(f"A proposed service is not valid: {problems[0]}")
    return service


def _by(names: str) -> str:
    return f" ({names})" if names else ""
