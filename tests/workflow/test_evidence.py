"""Every deployment leaves an evidence file that holds together, and that nobody can alter unnoticed."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from balancer.admin.audit_export import write_json_lines
from balancer.domain.chain import hash_event
from balancer.domain.evidence import (
    digest_content,
    dump_evidence,
    event_of_data,
    event_to_data,
    hash_file,
)
from balancer.domain.evidence_checks import verify_evidence, verify_seal
from balancer.domain.lifecycle import JobState
from balancer.kernel.base import Rejected
from balancer.models import AuditEvent, Cluster, Deployment, Evidence
from balancer.workflow.deployments import apply_change, cancel_deployment
from balancer.workflow.emergencies import apply_in_emergency
from balancer.workflow.history import read_events, verify_history
from balancer.workflow.rollback import roll_back_at_once, roll_back_to
from balancer.workflow.submissions import submit_change
from tests.cast import Site
from tests.documents import service_data
from tests.workflow.deeds import go_live

ROOT = Path(__file__).parents[2]


def evidence_text(deployment: Deployment) -> str:
    return Evidence.objects.get(deployment=deployment).text


def export() -> list[Any]:
    """What a person saves from the page of the audit history."""
    return [json.loads(line) for line in write_json_lines(read_events(AuditEvent.objects.all()))]


def wrong(text: str, *, audit: list[Any] | None = None) -> dict[str, str]:
    """Check -> sentence, of those that failed."""
    data = json.loads(text)
    findings = verify_evidence(data)
    if audit is not None:
        findings += verify_seal(text=text, data=data, export=audit)
    return {finding.check: finding.text for finding in findings if not finding.passed}


def test_a_deployment_leaves_a_file_that_verifies_and_whose_hash_is_in_the_chain(site: Site) -> None:
    site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81), service_data("dns", protocol="udp", port=53))

    deployment = Deployment.objects.latest("pk")
    text = evidence_text(deployment)
    assert wrong(text, audit=export()) == {}
    event = AuditEvent.objects.get(action="evidence.sealed", object_id=str(deployment.pk))
    assert event.facts == {"sha256": hash_file(text), "revision": 2}
    assert AuditEvent.objects.latest("number") == event
    assert verify_history().fault is None

    data = json.loads(text)
    assert data["deployment"]["state"] == "succeeded"
    assert data["change"]["author"]["name"] == "author"
    assert [vote["by"]["name"] for vote in data["votes"]] == ["approver"]
    assert data["before"]["number"] == 1
    assert [draft["name"] for draft in data["drafts"]] == ["dns", "web"]
    assert {"path": "port", "before": "80", "after": "81"} in data["drafts"][1]["fields"]
    assert any(
        line["kind"] == "added" and "--dport 81" in line["text"] for line in data["drafts"][1]["rules_diff"]
    )
    assert [job["node"] for job in data["jobs"]] == ["lb1", "lb2"]
    assert data["jobs"][0]["steps"][-1]["text"] == "Confirmed: every check holds."
    assert {probe["name"] for probe in data["jobs"][0]["probes"]} == {"database", "read-back"}
    assert data["head"]["number"] == event.number - 1


def test_a_failed_deployment_leaves_one_too(site: Site) -> None:
    deployment = site.start(service_data("web"))
    site.kernels["lb1"].fail_next = Rejected("The kernel said no.")
    jobs = list(deployment.jobs.order_by("node__name"))

    assert site.run(jobs[0]) is JobState.FAILED

    text = evidence_text(deployment)
    assert wrong(text, audit=export()) == {}
    assert json.loads(text)["deployment"]["state"] == "failed"
    assert "The kernel said no." in json.loads(text)["jobs"][0]["error"]


def test_a_cancelled_deployment_leaves_one_too(site: Site) -> None:
    deployment = site.start(service_data("web"))

    cancel_deployment(actor=site.operator, deployment=deployment)

    assert wrong(evidence_text(deployment), audit=export()) == {}
    assert json.loads(evidence_text(deployment))["deployment"]["state"] == "cancelled"


def test_a_rollback_leaves_one_too(site: Site) -> None:
    first = site.deploy(service_data("web"))
    site.deploy(service_data("web", port=81))

    go_live(site, roll_back_to(actor=site.operator, revision=first))

    data = json.loads(evidence_text(Deployment.objects.latest("pk")))
    assert (data["change"]["kind"], data["change"]["rollback_of"]) == ("rollback", 1)
    assert wrong(dump_evidence(data), audit=export()) == {}


def test_every_text_that_people_write_survives_the_way_into_the_file(site: Site) -> None:
    site.deploy(service_data("web", description="Grüße, “quoted” \U0001f600 \\ / \u2028 </script>"))

    assert wrong(evidence_text(Deployment.objects.get()), audit=export()) == {}


def test_who_may_not_approve_cannot_be_made_the_approver_afterwards(site: Site, viewer: User) -> None:
    """In a file whose own digest was computed anew."""
    site.deploy(service_data("web"))
    data = json.loads(evidence_text(Deployment.objects.get()))
    data["votes"][0]["by"] = {"id": viewer.pk, "name": "viewer"}

    found = wrong(resealed(data), audit=export())

    assert "No audit event says that viewer voted so." in found["story"]
    assert "SHA-256" in found["seal"]


def test_an_approval_by_an_author_does_not_count(site: Site, author: User) -> None:
    site.deploy(service_data("web"))
    data = json.loads(evidence_text(Deployment.objects.get()))
    data["change"]["contributors"].append(data["votes"][0]["by"])

    assert "The policy asks for 1 approval by people who did not write" in wrong(resealed(data))["approvals"]


def test_an_event_that_was_replaced_with_a_new_hash_is_not_in_the_export(site: Site) -> None:
    site.deploy(service_data("web"))
    data = json.loads(evidence_text(Deployment.objects.get()))
    index = next(i for i, e in enumerate(data["events"]) if e["action"] == "change.submitted")
    event = replace(event_of_data(data["events"][index]), actor_name="somebody")
    data["events"][index] = event_to_data(replace(event, hash=hash_event(event)))

    found = wrong(resealed(data), audit=export())

    assert f"Event {event.number} is another one in the export." in found["events-in-export"]


def test_an_event_that_the_file_leaves_out_is_found_in_the_export(site: Site) -> None:
    site.deploy(service_data("web"))
    data = json.loads(evidence_text(Deployment.objects.get()))
    left_out = data["events"].pop(1)

    found = wrong(resealed(data), audit=export())

    assert f"Event {left_out['number']} of the export is about this deployment" in found["events-in-export"]


def test_the_file_of_another_deployment_is_not_taken_for_this_one(site: Site) -> None:
    site.deploy(service_data("web"))
    audit = export()
    site.deploy(service_data("web", port=81))
    text = evidence_text(Deployment.objects.latest("pk"))

    assert "is not in the export" in wrong(text, audit=audit)["events-in-export"]
    assert "no event that seals" in wrong(text, audit=audit)["seal"]


@pytest.fixture
def script(site: Site, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the script that ships, with nothing but Python."""
    site.deploy(service_data("web"))
    (tmp_path / "evidence.json").write_text(evidence_text(Deployment.objects.get()))
    (tmp_path / "audit.jsonl").write_text("".join(write_json_lines(read_events(AuditEvent.objects.all()))))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(ROOT / "script/verify-evidence"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=60)

    return run


def test_the_script_says_a_sentence_for_each_check(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = script("evidence.json", "--audit", "audit.jsonl")

    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "ok    approvals: It has 1 of 1 approvals, by people who did not write it (approver)." in done.stdout
    )
    assert "of the chain holds the SHA-256 of this very file." in done.stdout
    assert "WRONG" not in done.stdout

    alone = script("evidence.json")
    assert alone.returncode == 0
    assert "Not checked: whether this is the file that was sealed" in alone.stdout


def test_the_script_finds_what_was_altered(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "evidence.json"
    genuine = path.read_text()
    path.write_text(genuine.replace("10.0.0.3", "10.0.0.9"))
    altered = script("evidence.json", "--audit", "audit.jsonl")
    path.write_text(genuine + "\n")
    spaced = script("evidence.json", "--audit", "audit.jsonl")

    assert altered.returncode == spaced.returncode == 1
    assert "WRONG digest: The file was altered" in altered.stdout
    assert "WRONG receipts: " in altered.stdout
    assert "WRONG spelling: " in spaced.stdout
    assert "WRONG seal: " in spaced.stdout


def test_the_script_says_when_it_cannot_check(
    script: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "no.json").write_text("{")

    assert script("nowhere.json").returncode == 2
    assert script("no.json").returncode == 2
    assert script("evidence.json", "--audit", "no.json").returncode == 2
    assert script().returncode == 2


def resealed(data: dict[str, Any]) -> str:
    """The text of a file whose own digest was computed anew."""
    return dump_evidence(data | {"digest": digest_content(data)})


def test_an_emergency_is_believed_because_the_chain_says_so_too(site: Site, administrator: User) -> None:
    change = submit_change(actor=site.author, change=site.change(service_data("web")))
    deployment = apply_in_emergency(
        actor=administrator, change=change, reason="Fire.", password_at=timezone.now()
    )
    site.finish(deployment)
    text = evidence_text(deployment)
    data = json.loads(text)

    assert wrong(text, audit=export()) == {}
    assert data["deployment"]["waiver"]["kind"] == "emergency"
    assert [(review["reason"], review["signed_by"]) for review in data["late_reviews"]] == [("Fire.", None)]


def test_a_rollback_of_chosen_services_verifies_and_so_does_one_at_once(site: Site) -> None:
    old = site.deploy(service_data("web"), service_data("mail", port=25))
    site.deploy(service_data("web", port=81), service_data("mail", port=26))
    some = roll_back_to(actor=site.operator, revision=old, services=["web"])
    site.finish(apply_change(actor=site.operator, change=site.approve(some)))
    Cluster.objects.update(rollback_at_once=True)
    site.cluster.refresh_from_db()
    site.finish(roll_back_at_once(actor=site.operator, cluster=site.cluster))

    texts = [evidence.text for evidence in Evidence.objects.order_by("pk")]
    assert [wrong(text, audit=export()) for text in texts] == [{}] * 4
    assert json.loads(texts[-1])["deployment"]["waiver"]["kind"] == "rollback-at-once"
