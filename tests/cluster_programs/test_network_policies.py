"""How the cluster of the tests enforces NetworkPolicies: its rules for iptables, and what they let pass.

The semantics are those of https://kubernetes.io/docs/concepts/services-networking/network-policies/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.network_policies import Cluster, Pod, rules
from support.chart import manifests, one

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Object = dict[str, Any]

NAMESPACES = {
    "shop": {"kubernetes.io/metadata.name": "shop"},
    "ingress": {"kubernetes.io/metadata.name": "ingress", "team": "edge"},
}
SHOP = Pod("shop", {"app": "shop"}, "10.0.0.1", {"http": 8080})
OTHER = Pod("shop", {"app": "other"}, "10.0.0.2", {})
PROXY = Pod("ingress", {"app": "proxy"}, "10.0.0.3", {})
DATABASE = Pod("shop", {"app": "database", "tier": "data"}, "10.0.0.4", {"sql": 5432})
PODS = (SHOP, OTHER, PROXY, DATABASE)
CLUSTER = Cluster(PODS, NAMESPACES)
OUTSIDE = "192.0.2.1"


class Packet(NamedTuple):
    """The first packet of a connection, or a later one."""

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    established: bool = False


def passes(text: str, packet: Packet) -> bool:
    """Whether iptables lets a packet pass with these rules."""
    appended = [line.split()[1:] for line in text.splitlines() if line.startswith("-A ")]
    chains: dict[str, list[list[str]]] = {line.split()[0][1:]: [] for line in text.splitlines() if line.startswith(":")}
    for chain, *rule in appended:
        chains[chain].append(rule)
    return _verdict(chains, "NETWORK-POLICIES", packet) == "RETURN"


def _verdict(chains: Mapping[str, Sequence[Sequence[str]]], chain: str, packet: Packet) -> str:
    for *conditions, jump, target in chains[chain]:
        assert jump == "-j"
        if all(_matches(*pair, packet) for pair in zip(conditions[::2], conditions[1::2], strict=True)):
            verdict = _verdict(chains, target, packet) if target in chains else target
            if verdict == "REJECT" or target == "RETURN":
                return verdict
    return "RETURN"


def _matches(option: str, value: str, packet: Packet) -> bool:
    match option:
        case "-s":
            return value in {packet.source, "0.0.0.0/0"}
        case "-d":
            return value in {packet.destination, "0.0.0.0/0"}
        case "-p":
            return value == packet.protocol
        case "--dport":
            return int(value) == packet.port
        case "-m":
            return value == "conntrack"
        case "--ctstate":
            return value == "ESTABLISHED,RELATED" and packet.established
    raise AssertionError(option)


def policy(text: str, namespace: str = "shop") -> Object:
    """The policy with this spec, as the API server stores it: with its types."""
    spec = yaml.safe_load(text)
    spec.setdefault("policyTypes", ["Ingress", *(["Egress"] if "egress" in spec else [])])
    return {"metadata": {"namespace": namespace, "name": "policy"}, "spec": spec}


def reached(policies: Sequence[Object], destination: Pod, port: int, *, protocol: str = "tcp") -> set[str]:
    """The apps of the pods that reach a port of a pod, and "outside"."""
    text = rules(CLUSTER, policies)
    sources = {"outside": OUTSIDE, **{pod.labels["app"]: pod.address for pod in PODS}}
    found = {
        name for name, address in sources.items() if passes(text, Packet(address, destination.address, port, protocol))
    }
    return found - {destination.labels["app"]}


def reaches(policies: Sequence[Object], source: Pod, destination: str, port: int, *, protocol: str = "tcp") -> bool:
    """Whether a pod can connect to an address."""
    return passes(rules(CLUSTER, policies), Packet(source.address, destination, port, protocol))


EVERYBODY = {"outside", "other", "proxy", "database"}


def test_without_a_policy_everything_passes() -> None:
    assert reached([], SHOP, 8080) == EVERYBODY


def test_a_policy_without_rules_closes_its_pods_and_no_others() -> None:
    closed = policy("{podSelector: {matchLabels: {app: shop}}}")
    assert reached([closed], SHOP, 8080) == set()
    assert reached([closed], OTHER, 8080) == {"outside", "shop", "proxy", "database"}
    assert reaches([closed], SHOP, OUTSIDE, 443)  # only ingress is isolated


def test_an_empty_selector_is_every_pod_of_the_namespace_of_the_policy() -> None:
    closed = policy("{podSelector: {}}")
    assert reached([closed], SHOP, 8080) == reached([closed], DATABASE, 5432) == set()
    assert reached([closed], PROXY, 80) == {"outside", "shop", "other", "database"}


def test_a_port_is_that_of_the_pod_and_no_other() -> None:
    opened = policy("{podSelector: {}, ingress: [{ports: [{protocol: TCP, port: 8000}]}]}")
    assert reached([opened], SHOP, 8000) == EVERYBODY
    assert reached([opened], SHOP, 80) == reached([opened], SHOP, 8080) == set()
    assert reached([opened], SHOP, 8000, protocol="udp") == set()


def test_a_named_port_is_that_of_the_pod_that_listens() -> None:
    opened = policy("{podSelector: {}, ingress: [{ports: [{protocol: TCP, port: http}]}]}")
    assert reached([opened], SHOP, 8080) == EVERYBODY
    for port in (80, 8080):  # not the port that /etc/services has for this name
        assert reached([opened], OTHER, port) == set()
    sql = policy("{podSelector: {}, egress: [{to: [{podSelector: {}}], ports: [{port: sql}]}], policyTypes: [Egress]}")
    assert reaches([sql], SHOP, DATABASE.address, 5432)
    assert not reaches([sql], SHOP, OTHER.address, 5432)


def test_a_protocol_without_a_port_is_all_its_ports() -> None:
    opened = policy("{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}")
    assert reached([opened], SHOP, 53, protocol="udp") == EVERYBODY
    assert reached([opened], SHOP, 53) == set()


@pytest.mark.parametrize("rule", ["{}", "{from: []}", "{ports: []}"])
def test_a_rule_without_peers_and_ports_allows_everything(rule: str) -> None:
    assert reached([policy(f"{{podSelector: {{}}, ingress: [{rule}]}}")], SHOP, 9) == EVERYBODY


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("[{podSelector: {}}]", {"other", "database"}),  # of the same namespace
        ("[{podSelector: {matchLabels: {app: proxy}}}]", set()),
        ("[{namespaceSelector: {}}]", {"other", "database", "proxy"}),  # of every namespace, but not from outside
        ("[{namespaceSelector: {matchLabels: {team: edge}}}]", {"proxy"}),
        ("[{namespaceSelector: {matchLabels: {team: edge, stage: test}}}]", set()),  # all labels must match
        ("[{namespaceSelector: {matchLabels: {team: edge}}, podSelector: {matchLabels: {app: other}}}]", set()),  # both
        (
            "[{namespaceSelector: {matchLabels: {team: edge}}}, {podSelector: {matchLabels: {app: other}}}]",
            {"proxy", "other"},
        ),
    ],
)
def test_peers(peers: str, expected: set[str]) -> None:
    assert (
        reached([policy(f"{{podSelector: {{matchLabels: {{app: shop}}}}, ingress: [{{from: {peers}}}]}}")], SHOP, 1)
        == expected
    )


def test_rules_and_policies_add_up() -> None:
    first = policy(
        "{podSelector: {}, ingress: [{ports: [{port: 1}]}, {from: [{podSelector: {}}], ports: [{port: 2}]}]}"
    )
    second = policy("{podSelector: {matchLabels: {app: shop}}, ingress: [{ports: [{port: 3}]}]}")
    assert reached([first, second], SHOP, 1) == EVERYBODY
    assert reached([first, second], SHOP, 2) == {"other", "database"}
    assert reached([first, second], SHOP, 3) == EVERYBODY
    assert reached([first, second], OTHER, 3) == set()


def test_egress_is_limited_by_the_port_of_the_pod_behind_a_service() -> None:
    limited = policy(
        "{podSelector: {matchLabels: {app: shop}}, policyTypes: [Egress], egress: [{ports: [{port: 443}]}]}"
    )
    assert reaches([limited], SHOP, OUTSIDE, 443)
    assert not reaches([limited], SHOP, DATABASE.address, 5432)
    assert reaches([limited], OTHER, DATABASE.address, 5432)
    assert reached([limited], SHOP, 8080) == EVERYBODY  # only egress is isolated


def test_both_ends_must_allow_a_connection() -> None:
    out = policy("{podSelector: {matchLabels: {app: shop}}, policyTypes: [Egress], egress: [{ports: [{port: 5432}]}]}")
    into = policy(
        "{podSelector: {matchLabels: {app: database}}, ingress: [{from: [{podSelector: {matchLabels: {app: shop}}}]}]}"
    )
    assert reaches([out, into], SHOP, DATABASE.address, 5432)
    assert not reaches([out, into], SHOP, DATABASE.address, 5433)
    assert not reaches([out, into], OTHER, DATABASE.address, 5432)


def test_answers_pass() -> None:
    text = rules(CLUSTER, [policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")])
    assert not passes(text, Packet(SHOP.address, OUTSIDE, 40000))
    assert passes(text, Packet(SHOP.address, OUTSIDE, 40000, established=True))


@pytest.mark.parametrize(
    "spec",
    [
        "{podSelector: {matchExpressions: [{key: app, operator: Exists}]}}",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}",
        "{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 9}]}]}",
        "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: https}]}]}",  # of which pod?
    ],
)
def test_what_is_not_implemented_is_an_error(spec: str) -> None:
    with pytest.raises(AssertionError):
        rules(CLUSTER, [policy(spec)])


def test_the_chart_opens_the_port_of_envoy_to_clients_and_no_other() -> None:
    found = one(manifests("gateway"), "NetworkPolicy")
    labels = found["spec"]["podSelector"]["matchLabels"]
    gateway = SHOP._replace(labels=labels)
    text = rules(
        Cluster([gateway, OTHER, PROXY], NAMESPACES), [{**found, "metadata": {"namespace": "shop", "name": "shop"}}]
    )
    open_to = {
        port: [pod.labels["app"] for pod in (OTHER, PROXY) if passes(text, Packet(pod.address, gateway.address, port))]
        for port in (80, 8000, 8080, 9192, 9902)
    }
    assert open_to == {80: [], 8000: ["proxy"], 8080: [], 9192: [], 9902: []}


# A second implementation: is a connection allowed?

LABELS = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]))
SELECTORS: st.SearchStrategy[Object] = st.one_of(st.just({}), LABELS.map(lambda labels: {"matchLabels": labels}))
PORTS = st.fixed_dictionaries(
    {}, optional={"protocol": st.sampled_from(["TCP", "UDP"]), "port": st.sampled_from([1, 2, "http"])}
)
PEERS = st.lists(
    st.fixed_dictionaries({}, optional={"podSelector": SELECTORS, "namespaceSelector": SELECTORS}).filter(bool),
    min_size=1,
    max_size=2,
)


def _rules(peers: str) -> st.SearchStrategy[list[Object]]:
    """Rules. A named port of egress needs peers."""
    each: st.SearchStrategy[Object] = st.fixed_dictionaries(
        {}, optional={peers: PEERS, "ports": st.lists(PORTS, min_size=1, max_size=2)}
    )

    def implemented(rule: Object) -> bool:
        return peers in rule or peers == "from" or all(port.get("port") != "http" for port in rule.get("ports", ()))

    return st.lists(each.filter(implemented), max_size=2)


POLICIES = st.lists(
    st.builds(
        lambda namespace, spec: {"metadata": {"namespace": namespace, "name": "policy"}, "spec": spec},
        st.sampled_from(["one", "two"]),
        st.fixed_dictionaries(
            {
                "podSelector": SELECTORS,
                "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), min_size=1, unique=True),
            },
            optional={"ingress": _rules("from"), "egress": _rules("to")},
        ),
    ),
    max_size=3,
)
CLUSTERS = st.builds(
    lambda namespaces, pods: Cluster(
        [
            Pod(namespace, labels, f"10.0.0.{number}", {"http": port} if port else {})
            for number, (namespace, labels, port) in enumerate(pods)
        ],
        dict(zip(("one", "two"), namespaces, strict=True)),
    ),
    st.tuples(LABELS, LABELS),
    st.lists(st.tuples(st.sampled_from(["one", "two"]), LABELS, st.sampled_from([0, 1, 2])), min_size=2, max_size=4),
)


def _allowed(cluster: Cluster, policies: Sequence[Object], source: Pod, target: Pod, protocol: str, port: int) -> bool:
    return all(
        not isolating
        or any(
            _rule_allows(rule, end, peer, each["metadata"]["namespace"], cluster, target, protocol, port)
            for each in isolating
            for rule in each["spec"].get(end, [])
        )
        for end, pod, peer in (("egress", source, target), ("ingress", target, source))
        for isolating in [list(_isolating(policies, end, pod))]
    )


def _isolating(policies: Sequence[Object], end: str, pod: Pod) -> Iterator[Object]:
    for each in policies:
        chosen = _selected(each["spec"]["podSelector"], pod.labels)
        if (
            end.capitalize() in each["spec"]["policyTypes"]
            and each["metadata"]["namespace"] == pod.namespace
            and chosen
        ):
            yield each


def _rule_allows(
    rule: Object, end: str, peer: Pod, own: str, cluster: Cluster, target: Pod, protocol: str, port: int
) -> bool:
    peers, ports = rule.get({"egress": "to", "ingress": "from"}[end]), rule.get("ports")
    peer_allowed = peers is None or any(
        _selected(each.get("podSelector", {}), peer.labels)
        and (
            _selected(each["namespaceSelector"], cluster.namespaces[peer.namespace])
            if "namespaceSelector" in each
            else peer.namespace == own
        )
        for each in peers
    )
    port_allowed = ports is None or any(
        each.get("protocol", "TCP").lower() == protocol
        and ("port" not in each or (target.ports.get("http") if each["port"] == "http" else each["port"]) == port)
        for each in ports
    )
    return peer_allowed and port_allowed


def _selected(selector: Object, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


@given(CLUSTERS, POLICIES)
def test_the_rules_let_pass_exactly_what_the_policies_allow(cluster: Cluster, policies: list[Object]) -> None:
    text = rules(cluster, policies)
    for source in cluster.pods:
        for target in cluster.pods:
            if source is not target:  # a pod always reaches itself, without leaving its network namespace
                for protocol in ("tcp", "udp"):
                    for port in (1, 2, 3):
                        packet = Packet(source.address, target.address, port, protocol)
                        assert passes(text, packet) == _allowed(cluster, policies, source, target, protocol, port)
