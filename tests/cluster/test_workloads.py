"""Workloads call each other with service account tokens: docs/how-to/service-accounts.md, examples/kubernetes."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cluster.client import Answer, Client, Request
from cluster.helm import IMAGE, Release
from cluster.images import TOOLS
from cluster.kubectl import Namespace, kubectl, wait_until
from support.chart import merged
from support.documents import blocks, page, yaml_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parent.parent.parent
EXAMPLE: Final = ROOT / "examples" / "kubernetes"
GUIDE: Final = page("how-to/service-accounts")
COMMANDS: Final = [each.text for text in (GUIDE, page("how-to/api-server")) for each in blocks(text, "sh")]
AUDIENCE: Final = "https://orders.shop.svc"
API_SERVER: Final = "https://kubernetes.default.svc"
TOKEN: Final = "/var/run/secrets/orders/token"
WRONG: Final = "/var/run/secrets/wrong/token"  # whose volume requests no audience
PODS: Final = "app.kubernetes.io/instance=orders"


@dataclass(frozen=True)
class Caller:
    """The Deployment of a caller, which has its token in a file."""

    namespace: Namespace
    name: str

    @property
    def target(self) -> str:
        return f"deployment/{self.name}"

    def token(self, path: str = TOKEN) -> str:
        return self.namespace.execute(self.target, "cat", path).stdout

    def call(self, method: str, path: str, token: str = "") -> Answer:
        """Call the API, by default with the caller's own token."""
        return self.send(Request(f"http://orders.shop.svc{path}", method), token or self.token())

    def send(self, request: Request, token: str = "") -> Answer:
        sent = asdict(request)
        if token:
            sent["headers"] = {"authorization": f"Bearer {token}"}
        done = self.namespace.execute(self.target, "python3", "/tools/call.py", stdin=json.dumps([sent]))
        (answer,) = json.loads(done.stdout)
        return Answer(**answer)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    """The namespace of the API and of most of its callers."""
    with Namespace("shop") as created:
        yield created


@pytest.fixture(scope="module")
def reporting() -> Iterator[Namespace]:
    with Namespace("reporting") as created:
        yield created


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """The example's values with the images of this cluster."""
    documented: dict[str, Any] = yaml.safe_load((EXAMPLE / "values.yaml").read_text())
    own = {
        "image": IMAGE,
        "replicas": 1,
        "resources": {"requests": {"cpu": "20m"}},
        "gateway": {"application": {"image": TOOLS}, "envoy": {"resources": {"requests": {"cpu": "20m"}}}},
    }
    return merged(documented, own)


@pytest.fixture(scope="module")
def orders(namespace: Namespace, values: dict[str, Any], cart: Caller) -> Release:
    """The API, which `cart` reaches."""
    release = Release(namespace, "orders")
    release.install(values)
    # The node learns a moment later that the Service has a pod.
    wait_until(lambda: cart.send(Request("http://orders.shop.svc/orders/7")).status == 401, what="the API")
    return release


@pytest.fixture(scope="module")
def cart(namespace: Namespace) -> Caller:
    return caller(namespace, "cart")


@pytest.fixture(scope="module")
def search(namespace: Namespace) -> Caller:
    """Another caller of the same namespace, with a second volume that requests no audience."""
    wrong = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}
    return caller(namespace, "search", wrong)


@pytest.fixture(scope="module")
def job(reporting: Namespace) -> Caller:
    return caller(reporting, "job")


def caller(namespace: Namespace, name: str, wrong: dict[str, Any] | None = None) -> Caller:
    """A caller with a ServiceAccount of its own, as the guide configures `cart`."""
    (block,) = (each for each in yaml_blocks("how-to/service-accounts") if "kind: Deployment" in each)
    deployment = yaml.safe_load(block.replace("cart:2.0.1", TOOLS).replace("cart", name))
    del deployment["metadata"]["namespace"]
    if wrong is not None:
        pod = deployment["spec"]["template"]["spec"]
        pod["volumes"].append({"name": "wrong", "projected": {"sources": [wrong]}})
        mount = {"name": "wrong", "mountPath": str(Path(WRONG).parent), "readOnly": True}
        pod["containers"][0]["volumeMounts"].append(mount)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    namespace.apply(account, deployment)
    namespace.wait_rollout(name)
    return Caller(namespace, name)


def requested(account: str, *options: str, namespace: str = "shop", audience: str = AUDIENCE) -> str:
    """A token that a user requests. It is bound to no pod unless the options say so."""
    command = ["create", "token", account, f"--namespace={namespace}", f"--audience={audience}", *options]
    return kubectl(*command).stdout.strip()


def outcome(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.reason


def run(command: str) -> str:
    """The output of a command in the guide."""
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(part: str) -> str:
    (found,) = (each for each in COMMANDS if part in each)
    return found


def test_the_guide_shows_the_issuer_and_who_may_read_its_keys(values: dict[str, Any], orders: Release) -> None:
    metadata = json.loads(run(command("get --raw")))
    (issuer,) = values["config"]["issuers"]
    assert metadata["issuer"] == issuer["issuer"]
    assert metadata["id_token_signing_alg_values_supported"] == issuer["algorithms"]
    assert run(command("auth can-i")) == "yes\n"


def test_the_keys_need_a_token(cart: Caller, namespace: Namespace) -> None:
    """So the example has `bearer_token_file`."""
    authority = namespace.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    request = Request(f"{API_SERVER}/openid/v1/jwks", ca=authority)
    assert cart.send(request).status == 403
    answer = cart.send(request, kubectl("create", "token", "cart", "--namespace=shop").stdout.strip())
    assert answer.status == 200
    assert answer.json()["keys"]


def test_a_caller_is_allowed_by_its_service_account(orders: Release, cart: Caller, search: Caller) -> None:
    answer = cart.call("POST", "/orders")
    assert answer.status == 200, answer
    assert answer.json()["request"] == "POST /orders"
    assert answer.json()["headers"]["x-auth-subject"] == "system:serviceaccount:shop:cart"
    assert outcome(search.call("POST", "/orders")) == (403, "claim_mismatch")


def test_a_caller_is_allowed_by_its_namespace(orders: Release, cart: Caller, search: Caller, job: Caller) -> None:
    for each in (cart, search):
        answer = each.call("GET", "/orders/7")
        assert answer.status == 200, answer
        assert answer.json()["headers"]["x-auth-subject"] == f"system:serviceaccount:shop:{each.name}"
    assert outcome(job.call("GET", "/orders/7")) == (403, "claim_mismatch")


def test_a_namespace_whose_name_begins_alike_is_another(orders: Release, cart: Caller) -> None:
    with Namespace("shopping"):
        token = requested("default", namespace="shopping")
    assert outcome(cart.call("GET", "/orders/7", token)) == (403, "claim_mismatch")


def test_a_rule_can_require_a_pod(orders: Release, cart: Caller, job: Caller, reporting: Namespace) -> None:
    assert job.call("GET", "/reports/may").status == 200
    assert outcome(job.call("GET", "/reports/may", requested("job", namespace="reporting"))) == (403, "claim_mismatch")
    (pod,) = reporting.pods("app=job")
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod['metadata']['name']}")
    assert job.call("GET", "/reports/may", requested("job", *bound, namespace="reporting")).status == 200
    assert outcome(cart.call("GET", "/reports/may")) == (403, "claim_mismatch")


def test_a_token_for_the_api_server_is_refused(orders: Release, search: Caller, namespace: Namespace) -> None:
    assert outcome(search.call("GET", "/orders/7", search.token(WRONG))) == (401, "wrong_audience")
    own = namespace.execute("deployment/orders", "cat", "/var/run/secrets/api-server/token", container="authz-service")
    assert outcome(search.call("GET", "/orders/7", own.stdout)) == (401, "wrong_audience")


def test_a_token_for_the_api_is_of_no_use_at_the_api_server(cart: Caller, namespace: Namespace) -> None:
    authority = namespace.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    assert cart.send(Request(f"{API_SERVER}/openid/v1/jwks", ca=authority), cart.token()).status == 401


def test_a_request_without_a_token_or_with_an_invalid_one_is_refused(orders: Release, cart: Caller) -> None:
    answer = cart.send(Request("http://orders.shop.svc/orders/7"))
    assert outcome(answer) == (401, "missing_token")
    token = cart.token()
    tampered = token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:]
    assert outcome(cart.call("GET", "/orders/7", tampered)) == (401, "bad_signature")


def test_a_legacy_token_is_refused(orders: Release, cart: Caller, namespace: Namespace) -> None:
    """A Secret holds it, without an end and without an audience."""
    annotation = {"kubernetes.io/service-account.name": "cart"}
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {"name": "legacy", "annotations": annotation},
        }
    )
    template = "--output=go-template={{.data.token | base64decode}}"
    token = wait_until(
        lambda: namespace.kubectl("get", "secret", "legacy", template, check=False).stdout, what="a legacy token"
    )
    assert outcome(cart.call("GET", "/orders/7", token)) == (401, "unknown_issuer")


def test_the_token_of_a_deleted_pod_is_valid_until_it_expires(
    orders: Release, cart: Caller, namespace: Namespace
) -> None:
    """And so it has a short lifetime: the API server knows of the deletion, and authz-service does not."""
    Client(namespace)
    bound = requested("default", "--bound-object-kind=Pod", "--bound-object-name=client")
    namespace.kubectl("delete", "pod", "client")
    assert cart.call("GET", "/orders/7", bound).status == 200


def test_helm_test_sends_a_request(orders: Release) -> None:
    assert "/orders/7: status 401, reason missing_token" in orders.test()


def test_only_authz_service_has_the_token_for_the_api_server(orders: Release, namespace: Namespace) -> None:
    folder = "/var/run/secrets"
    for container, files in (("authz-service", "ca.crt\ntoken\n"), ("application", "")):
        found = namespace.execute("deployment/orders", "ls", f"{folder}/api-server", container=container, check=False)
        assert found.stdout == files
    assert "kubernetes.io" not in namespace.execute("deployment/orders", "ls", folder, container="authz-service").stdout


def test_the_guide_explains_a_decision(orders: Release, cart: Caller) -> None:
    explained = run(command("--exit-zero"))
    assert "allow, ok" in explained
    assert "system:serviceaccount:shop:cart" in explained
    assert "deny with 403, claim_mismatch" in run(command("--exit-zero").replace("token cart", "token search"))


@contextmanager
def upgraded(orders: Release, values: dict[str, Any]) -> Iterator[str]:
    """The name of the new pod of a revision; then the previous revision is restored."""
    before = {pod["metadata"]["name"] for pod in orders.namespace.pods(PODS)}
    orders.upgrade(values, wait=False)
    try:
        yield str(
            wait_until(
                lambda: [
                    name
                    for pod in orders.namespace.pods(PODS)
                    if (name := pod["metadata"]["name"]) not in before and pod["status"].get("initContainerStatuses")
                ],
                what="a new pod",
            )[0]
        )
    finally:
        orders.rollback()


def log_with(namespace: Namespace, pod: str, part: str) -> None:
    wait_until(
        lambda: part in namespace.kubectl("logs", pod, "--container=authz-service", check=False).stdout, what=part
    )


def test_without_its_token_a_pod_is_not_ready_and_the_log_has_the_cause(
    orders: Release, values: dict[str, Any], cart: Caller, namespace: Namespace
) -> None:
    without = deepcopy(values)
    del without["config"]["issuers"][0]["keys"]["bearer_token_file"]
    with upgraded(orders, without) as pod:
        log_with(namespace, pod, "status 403")
        assert not ready(namespace, pod)
        # The previous pod serves. It may have to start again if the machine is too busy for its liveness probe.
        wait_until(lambda: cart.call("GET", "/orders/7").status == 200, what="an answer of the previous pod")


def test_a_replaced_token_is_read_again(
    orders: Release, values: dict[str, Any], cart: Caller, namespace: Namespace
) -> None:
    """The kubelet would replace a projected token after 48 minutes, so this one is in a Secret."""
    namespace.secret("own-token", {"token": requested("orders")})  # which the API server refuses
    authority = {"configMap": {"name": "kube-root-ca.crt"}}
    sources = [{"secret": {"name": "own-token"}}, authority]
    own = {
        "extraVolumes": [{"name": "own", "projected": {"sources": sources}}],
        "extraVolumeMounts": [{"name": "own", "mountPath": "/var/run/secrets/api-server", "readOnly": True}],
    }
    with upgraded(orders, merged(values, own)) as pod:
        log_with(namespace, pod, "status 401")
        assert not ready(namespace, pod)
        token = kubectl("create", "token", "orders", "--namespace=shop").stdout.strip()
        namespace.secret("own-token", {"token": token})
        namespace.kubectl("annotate", "pod", pod, "token-changed=now")  # the kubelet updates the volume at once
        wait_until(lambda: ready(namespace, pod), timeout=150, what="a pod with keys")
        (status,) = namespace.get("pod", pod)["status"]["initContainerStatuses"]
        assert status["restartCount"] == 0
        namespace.wait_rollout("orders")
        # The previous pod serves until the network has learned that it stops.
        wait_until(lambda: cart.call("GET", "/orders/7").json()["pod"] == pod, what="an answer of the new pod")


def ready(namespace: Namespace, pod: str) -> bool:
    conditions = namespace.get("pod", pod)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
