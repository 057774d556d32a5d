"""What is at stake on the nodes, and what a reviewer should know of them, from rows."""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Address

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from balancer.domain.observation import ConnectionCount, InputPath, InputRule, Listener, Observation
from balancer.domain.types import Protocol, Service
from balancer.models import Cluster, Job, Node
from balancer.workflow.clusters import create_cluster, create_node
from balancer.workflow.stakes import Stake, advice_for, stakes_of
from lbadmin.settings import env_ports
from tests.cast import Site
from tests.documents import backend_data, document, service_data

HERE = IPv4Address("198.51.100.1")
FACTS = {
    "flavour": "legacy",
    "interfaces": [
        {"name": "eth0", "addresses": ["198.51.100.1/24"]},
        {"name": "lo", "addresses": ["127.0.0.1/8", "::1/128"]},
    ],
}
Services = Mapping[str, Service | None]


def web(**fields: object) -> dict[str, Service]:
    return {"web": document(service_data(**fields)).services[0]}


def connections(number: int, backend: str = "10.0.0.3:80", *, entries: int | None = None) -> Observation:
    count = ConnectionCount(
        protocol=Protocol.TCP,
        address=HERE,
        port=80,
        backend=backend,
        entries=entries or number,
        established=number,
    )
    return Observation(connections=(count,))


def see(name: str, seen: Observation | None = None, /, **fields: object) -> None:
    """The node's worker was here a moment ago."""
    now = timezone.now()
    data = (seen or Observation()).to_data()
    known = {"facts": FACTS, "observation": data, "observed_at": now, "last_seen": now}
    Node.objects.filter(name=name).update(**(known | fields))


def ask(site: Site, before: Services, after: Services) -> dict[tuple[str, str], Stake]:
    """(backend, node) -> stake."""
    stakes = stakes_of(cluster=site.cluster, before=before, after=after)
    return {(stake.backend, stake.node): stake for stake in stakes}


def codes(site: Site, after: Services, before: Services | None = None) -> list[tuple[str, str]]:
    found = advice_for(cluster=site.cluster, before=before or {"web": None}, after=after)
    return [(advice.code, advice.node) for advice in found]


def test_each_backend_of_each_node_has_its_number_and_its_fate(site: Site) -> None:
    site.deploy(service_data("web"))
    see("lb1", connections(3, entries=5))
    see("lb2", connections(2, "10.0.0.4:80"))
    less = web(backends=[backend_data("10.0.0.4"), backend_data("10.0.0.5", state="disabled")])

    found = ask(site, web(), less)

    assert {place: (stake.count, stake.fate) for place, stake in found.items()} == {
        ("10.0.0.3:80", "lb1"): (3, "stay-until-they-end"),
        ("10.0.0.3:80", "lb2"): (0, "stay-until-they-end"),
        ("10.0.0.4:80", "lb1"): (0, "stay"),
        ("10.0.0.4:80", "lb2"): (2, "stay"),
        ("10.0.0.5:80", "lb1"): (0, "cut"),
        ("10.0.0.5:80", "lb2"): (0, "cut"),
        ("10.0.0.6:80", "lb1"): (0, "stay-until-they-end"),
        ("10.0.0.6:80", "lb2"): (0, "stay-until-they-end"),
    }
    assert list(found) == sorted(found)
    stake = found["10.0.0.3:80", "lb1"]
    assert (stake.service, stake.protocol, stake.why_unknown) == ("web", "tcp", "")
    assert stake.observed_at == Node.objects.get(name="lb1").observed_at


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"observed_at": None, "observation": {}}, "has not told yet"),
        ({"observation": {"error": "conntrack is not installed."}}, "conntrack is not installed."),
        ({"observation": {"connections": "of another version"}}, "another version"),
        ({"observed_at": timezone.now() - timedelta(minutes=5)}, "is silent"),
        ({"last_seen": timezone.now() - timedelta(minutes=5)}, "is silent"),
    ],
)
def test_what_is_not_known_is_not_taken_for_zero(site: Site, fields: dict, words: str) -> None:
    site.deploy(service_data("web"))
    see("lb1")
    see("lb2", **fields)

    found = ask(site, web(), {"web": None})

    assert {found["10.0.0.3:80", name].count for name in ("lb1", "lb2")} == {0, None}
    silent = found["10.0.0.3:80", "lb2"]
    assert (silent.count, silent.fate) == (None, "stay-until-they-end")
    assert words in silent.why_unknown


def test_a_look_that_took_long_stays_good_for_longer(site: Site) -> None:
    see("lb1", Observation(duration_ms=5000), observed_at=timezone.now() - timedelta(minutes=10))
    see("lb2", Observation(duration_ms=10), observed_at=timezone.now() - timedelta(minutes=10))
    found = ask(site, web(), web())
    assert (found["10.0.0.3:80", "lb1"].count, found["10.0.0.3:80", "lb2"].count) == (0, None)


def test_a_node_that_is_switched_off_has_no_part_in_it(site: Site) -> None:
    see("lb1")
    see("lb2", enabled=False)
    assert {stake.node for stake in ask(site, web(), {"web": None}).values()} == {"lb1"}
    assert codes(site, web(port=22)) == [("management-port", "lb1")]


def test_what_another_live_service_could_own_stays(site: Site) -> None:
    site.deploy(service_data("web"), service_data("inside", interface="eth1"))
    see("lb1", connections(3))
    off = web(backends=[backend_data(state="disabled")])
    assert ask(site, web(), off)["10.0.0.3:80", "lb1"].fate == "stay"


def test_advice_is_made_of_what_the_nodes_told(site: Site) -> None:
    ban = InputRule(text="-A INPUT -p tcp -m set -j DROP", chain="INPUT", verdict="DROP", exact=False)
    busy = Observation(
        listeners=(Listener(protocol=Protocol.TCP, address="*", port=80),),
        inputs=(InputPath(flavour="legacy", policy="DROP", rules=(ban,)),),
    )
    see("lb1", busy)
    see("lb2")
    assert codes(site, web()) == [
        ("input-bypassed", "lb1"),
        ("input-policy", ""),
        ("own-listener", "lb1"),
    ]


def test_of_nodes_that_never_told_anything_only_the_management_port_is_known(site: Site) -> None:
    assert codes(site, web()) == []
    assert codes(site, web(port=22)) == [("management-port", "lb1"), ("management-port", "lb2")]


def test_management_ports_come_from_the_settings(site: Site, settings: object) -> None:
    settings.LBADMIN_MANAGEMENT_PORTS = frozenset({80})
    assert codes(site, web(port=22)) == []
    assert ("management-port", "lb1") in codes(site, web())


def test_ports_that_are_none_stop_the_start_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LBADMIN_MANAGEMENT_PORTS", "22, 2222")
    assert env_ports("LBADMIN_MANAGEMENT_PORTS", "22") == [22, 2222]
    for wrong in ("ssh", "0", "70000", "-1"):
        monkeypatch.setenv("LBADMIN_MANAGEMENT_PORTS", f"22,{wrong}")
        with pytest.raises(ImproperlyConfigured, match=f"LBADMIN_MANAGEMENT_PORTS holds '{wrong}'"):
            env_ports("LBADMIN_MANAGEMENT_PORTS", "22")


def test_commits_of_the_last_day_that_wrote_something_are_counted(site: Site) -> None:
    revision = site.deploy(service_data("web"))
    see("lb1")
    see("lb2")
    assert codes(site, web()) == []
    add_jobs(site.cluster, "lb1", 10, revision=revision)
    add_jobs(site.cluster, "lb2", 10, revision=revision, receipt={"ipv4": {"changed": False}})
    add_jobs(site.cluster, "lb2", 10, revision=revision, state="failed")
    add_jobs(site.cluster, "lb2", 10, revision=revision, finished_at=timezone.now() - timedelta(hours=25))
    assert codes(site, web()) == [("nth-restarts", "lb1")]


def test_nodes_of_other_clusters_say_nothing_here(site: Site) -> None:
    other = create_cluster(actor=None, name="other")
    create_node(actor=None, cluster=other, name="far")
    see("far", Observation(listeners=(Listener(protocol=Protocol.TCP, address="*", port=80),)))
    assert codes(site, web()) == []
    assert {stake.node for stake in ask(site, web(), {"web": None}).values()} == {"lb1", "lb2"}


def add_jobs(cluster: Cluster, node: str, number: int, **fields: object) -> None:
    now = timezone.now()
    done = {
        "receipt": {"ipv4": {"changed": True}},
        "state": "succeeded",
        "queued_at": now,
        "finished_at": now,
    }
    found = cluster.nodes.get(name=node)
    Job.objects.bulk_create(Job(node=found, reason="converge", **(done | fields)) for _ in range(number))
