"""Enforces NetworkPolicies on the node with iptables, as a network plugin does: on the addresses and ports of pods.

It implements what the chart and its guides write, and ends with an error at anything else: no policy is ignored.

    python -m cluster.network_policies CERTIFICATES      (first_process.py)
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Object = dict[str, Any]

_INTERVAL: Final = 0.5  # seconds between two looks at the API server
_CHAIN: Final = "NETWORK-POLICIES"
_ALL: Final = "0.0.0.0/0"


class Pod(NamedTuple):
    """What policies select a pod by, and where it is."""

    namespace: str
    labels: Mapping[str, str]
    address: str
    ports: Mapping[str, int]  # by name


class Cluster(NamedTuple):
    """What policies refer to."""

    pods: Sequence[Pod]
    namespaces: Mapping[str, Mapping[str, str]]  # their labels by name


def main(certificates: Path) -> None:
    """Keep the rules of iptables those of the cluster's policies."""
    tls = ssl.create_default_context(cafile=certificates / "ca.crt")
    tls.load_cert_chain(certificates / "network-policies.crt", certificates / "network-policies.key")
    _iptables("-N", _CHAIN)
    for chain in ("FORWARD", "INPUT"):  # to pods, and to what listens on the node
        _iptables("-I", chain, "-j", _CHAIN)
    current = ""
    while True:
        namespaces = {
            each["metadata"]["name"]: each["metadata"]["labels"] for each in _items(tls, "/api/v1/namespaces")
        }
        pods = [pod for pod in _pods(_items(tls, "/api/v1/pods")) if pod.namespace in namespaces]
        cluster = Cluster(pods, namespaces)
        policies = _items(tls, "/apis/networking.k8s.io/v1/networkpolicies")
        if (text := rules(cluster, policies)) != current:
            subprocess.run(["iptables-restore", "--noflush", "--wait"], input=text, text=True, check=True)
            current = text
        time.sleep(_INTERVAL)


def rules(cluster: Cluster, policies: Sequence[Object]) -> str:
    """The input of iptables-restore: one chain for each pod and direction that a policy isolates.

    A packet passes if its connection has been established, or if the chains of its source and destination return.
    """
    jumps, chains = [f"-A {_CHAIN} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"], []
    for pod in cluster.pods:
        for direction in ("Ingress", "Egress"):
            applied = [each for each in policies if direction in each["spec"]["policyTypes"] and _applies(each, pod)]
            if applied:
                chain = f"NP-{direction}-{pod.address}"
                allowed = {rule for policy in applied for rule in _allowed(policy, direction, pod, cluster)}
                jumps.append(f"-A {_CHAIN} {'-d' if direction == 'Ingress' else '-s'} {pod.address} -j {chain}")
                chains += [f"-A {chain} {rule} -j RETURN" for rule in sorted(allowed)]
                chains.append(f"-A {chain} -j REJECT")
    names = [_CHAIN, *(jump.split()[-1] for jump in jumps[1:])]
    return "\n".join(["*filter", *(f":{name} - [0:0]" for name in names), *jumps, *chains, "COMMIT", ""])


def _allowed(policy: Object, direction: str, pod: Pod, cluster: Cluster) -> Iterator[str]:
    """The packets that a policy lets pass, as conditions of iptables."""
    key, peers, option = ("ingress", "from", "-s") if direction == "Ingress" else ("egress", "to", "-d")
    for rule in policy["spec"].get(key) or ():
        assert rule.keys() <= {peers, "ports"}, rule
        for address, ports in _addresses(rule.get(peers), policy["metadata"]["namespace"], cluster):
            named = pod.ports if direction == "Ingress" else ports
            for condition in _ports(rule.get("ports"), named):
                yield f"{option} {address}{condition}"


def _addresses(
    peers: Sequence[Object] | None, own: str, cluster: Cluster
) -> Iterator[tuple[str, Mapping[str, int] | None]]:
    """The addresses of peers, each with its named ports."""
    if not peers:
        yield _ALL, None
    for peer in peers or ():
        assert peer.keys() <= {"podSelector", "namespaceSelector"}, peer
        for pod in cluster.pods:
            labels = cluster.namespaces[pod.namespace]
            near = _selects(peer["namespaceSelector"], labels) if "namespaceSelector" in peer else pod.namespace == own
            if near and _selects(peer.get("podSelector") or {}, pod.labels):
                yield pod.address, pod.ports


def _ports(ports: Sequence[Object] | None, named: Mapping[str, int] | None) -> Iterator[str]:
    if not ports:
        yield ""
    for port in ports or ():
        assert port.keys() <= {"protocol", "port"}, port
        protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
        if isinstance(number, str):
            assert named is not None, f"the port {number} is that of any pod, which is not implemented"
            if number not in named:
                continue  # this pod has no such port, so the rule allows none of its ports
            number = named[number]
        yield f" -p {protocol}" if number is None else f" -p {protocol} --dport {number}"


def _applies(policy: Object, pod: Pod) -> bool:
    return pod.namespace == policy["metadata"]["namespace"] and _selects(policy["spec"]["podSelector"], pod.labels)


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, selector
    required: dict[str, str] = selector.get("matchLabels", {})
    return required.items() <= labels.items()


def _pods(items: Sequence[Object]) -> Iterator[Pod]:
    for each in items:
        if (address := each["status"].get("podIP")) and each["status"]["phase"] in {"Pending", "Running"}:
            containers = [*each["spec"].get("initContainers", ()), *each["spec"]["containers"]]
            ports = [port for container in containers for port in container.get("ports", ()) if "name" in port]
            names = {port["name"]: port["containerPort"] for port in ports}
            yield Pod(each["metadata"]["namespace"], each["metadata"].get("labels", {}), address, names)


def _items(tls: ssl.SSLContext, path: str) -> list[Object]:
    """The objects at a path of the API server, which may not serve yet."""
    while True:
        connection = http.client.HTTPSConnection("127.0.0.1", 6443, context=tls, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            if response.status == http.HTTPStatus.OK:
                items: list[Object] = json.load(response)["items"]
                return items
        except OSError:
            pass  # without an API server, the cluster ends
        finally:
            connection.close()
        time.sleep(_INTERVAL)


def _iptables(*arguments: str) -> None:
    subprocess.run(["iptables", "--wait", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
