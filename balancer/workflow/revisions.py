"""Revisions: compiling a document for keeps, and checking that what was kept is what it was."""

from collections.abc import Mapping
from functools import lru_cache

from django.utils import timezone

from balancer.domain.codec import dump_document, load_document
from balancer.domain.digests import digest_revision
from balancer.domain.problem import Problem
from balancer.domain.types import Document, Family
from balancer.models import Change, Cluster, Revision
from balancer.ruleset.compile import COMPILER, compile_document
from balancer.ruleset.ir import Ruleset
from balancer.ruleset.parse import parse_ruleset
from balancer.ruleset.render import render_ruleset
from balancer.workflow import audit
from balancer.workflow.audit import Action
from balancer.workflow.errors import Refused
from balancer.workflow.permissions import Actor

WAY_OUT = (
    "Bring the rules up to date: choose “Compile it anew” on the page of the live revision, have the"
    " difference reviewed and apply it. Any other change that is applied does that as well."
)


def compile_rulesets(document: Document) -> dict[Family, Ruleset]:
    """What a revision keeps: IPv4 always, IPv6 where the document has an IPv6 service, enabled or not.

    So the digest of a revision without one is what it was before there was IPv6.
    """
    has_ipv6 = any(service.family is Family.IPV6 for service in document.services)
    families = tuple(Family) if has_ipv6 else (Family.IPV4,)
    return {family: compile_document(document, family=family) for family in families}


def node_rulesets(document: Document) -> dict[Family, Ruleset]:
    """What a node carries: both families, so that it also gets rid of IPv6 services that are gone."""
    return {family: compile_document(document, family=family) for family in Family}


def render_rulesets(document: Document) -> dict[str, str]:
    """Family -> text, as a revision keeps them."""
    return {str(family): render_ruleset(ruleset) for family, ruleset in compile_rulesets(document).items()}


def render_node_rulesets(document: Document) -> dict[str, str]:
    """Family -> text, as a node's guard keeps them."""
    return {str(family): render_ruleset(ruleset) for family, ruleset in node_rulesets(document).items()}


def document_of(revision: Revision) -> Document:
    """The revision's document as a value; Refused("invalid") where this version cannot read it any more."""
    document, problems = _read_document(revision.document)
    if document is None:
        raise Refused("invalid", f"{revision} cannot be read by this version of lbadmin: {problems[0]}")
    return document


def live_revision(cluster: Cluster) -> Revision:
    """What the cluster's nodes should carry; the empty revision 0 where nothing was ever applied."""
    live = Revision.objects.filter(
        pk__in=Cluster.objects.filter(pk=cluster.pk).values("live_revision")
    ).first()
    if live is None:
        first, _ = Revision.objects.get_or_create(cluster=cluster, number=0, defaults=_empty_revision())
        Cluster.objects.filter(pk=cluster.pk, live_revision=None).update(live_revision=first)
        cluster.refresh_from_db(fields=["live_revision"])
        assert cluster.live_revision is not None
        live = cluster.live_revision
    cluster.live_revision = live
    return live


def create_revision(*, actor: Actor, change: Change, document: Document) -> Revision:
    """The next revision of the change's cluster. The caller holds the lock on the cluster's row."""
    text, rulesets = dump_document(document), render_rulesets(document)
    newest = Revision.objects.filter(cluster=change.cluster).order_by("-number").first()
    revision = Revision.objects.create(
        cluster=change.cluster,
        number=newest.number + 1 if newest else 1,
        document=text,
        rulesets=rulesets,
        digest=digest_revision(document=text, rulesets=rulesets),
        compiler=COMPILER,
        change=change,
        author_name=change.author.get_username(),
        created_at=timezone.now(),
    )
    facts = {"number": revision.number, "digest": revision.digest, "change": change.pk}
    audit.record(actor=actor, action=Action.REVISION_CREATED, target=revision, facts=facts)
    return revision


def why_not_genuine(revision: Revision) -> str | None:
    """Compiles again and compares with what was kept; a sentence where anything differs."""
    document, problems = load_document(revision.document)
    if document is None:
        return f"The document of {revision} is not valid: {problems[0]}"
    if dump_document(document) != revision.document:
        return f"The document of {revision} is not in canonical form."
    rulesets = render_rulesets(document)
    if rulesets != revision.rulesets and revision.compiler != COMPILER:
        return f"{why_outdated(revision)} {WAY_OUT}"
    if rulesets != revision.rulesets:
        return f"The document of {revision} does not compile to the ruleset that was kept with it."
    if digest_revision(document=revision.document, rulesets=rulesets) != revision.digest:
        return f"The digest of {revision} does not match its content."
    return None


def is_outdated(revision: Revision) -> bool:
    """Another lbadmin compiled it, and this one makes other rules of its document."""
    return revision.compiler != COMPILER and _rendered(revision.document) != revision.rulesets


def why_outdated(revision: Revision) -> str:
    """A sentence about a live revision that is outdated; empty where it is not."""
    if not is_outdated(revision):
        return ""
    which = "an earlier" if revision.compiler < COMPILER else "a later"
    return (
        f"{revision} was compiled by {which} lbadmin, which makes other rules of its document than this one."
        " Nodes keep what they carry: until a change brings the rules up to date, they take no overrides,"
        " follow no health checks, move no weights, make no drills, and are not brought back where they"
        " differ."
    )


def require_up_to_date(cluster: Cluster) -> None:
    """Refused("outdated") where nodes are left as they are, because another lbadmin compiled what is live."""
    why = why_outdated(live_revision(cluster))
    if why:
        raise Refused("outdated", f"{why} {WAY_OUT}")


def kept_texts(revision: Revision) -> dict[str, str]:
    """Family -> the text that was kept, of both families; IPv6 is empty where the document has none."""
    return {**render_node_rulesets(Document()), **revision.rulesets}


def kept_rulesets(revision: Revision) -> tuple[Ruleset, ...]:
    """What a node carries of it that was written by the lbadmin which compiled it. Raises Unparsable."""
    return tuple(parse_ruleset(text, family=Family(family)) for family, text in kept_texts(revision).items())


@lru_cache(maxsize=2)
def _rendered(text: str) -> Mapping[str, str] | None:
    document, _ = load_document(text)
    return None if document is None else render_rulesets(document)


@lru_cache(maxsize=2)
def _read_document(text: str) -> tuple[Document | None, tuple[Problem, ...]]:
    """One request asks for the live document several times, and a big one takes seconds to read."""
    return load_document(text)


def _empty_revision() -> dict[str, object]:
    text, rulesets = dump_document(Document()), render_rulesets(Document())
    return {
        "document": text,
        "rulesets": rulesets,
        "digest": digest_revision(document=text, rulesets=rulesets),
        "compiler": COMPILER,
        "author_name": audit.SYSTEM,
        "created_at": timezone.now(),
    }
