"""The configuration files of a cluster's programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

ADDRESS: Final = "10.89.0.1"  # of the node
CONTAINERD: Final = "/run/containerd/containerd.sock"
CONTROL_GROUP: Final = "authz-service-cluster"  # the kubelet creates those of pods below it
PLUGINS: Final = ("/usr/lib/cni", "/opt/cni/bin")  # folders with network plugins


def files(run: Path, containers: Path) -> dict[str, str]:
    """The content of each file in the folder `run`."""
    return {
        "containerd.toml": _containerd(run, containers),
        "cni/10-pods.conflist": json.dumps(_POD_NETWORK),
        "kubelet.json": json.dumps(_kubelet(run)),
        "Corefile": _COREFILE.replace("KUBECONFIG", f"{run}/certificates/admin.kubeconfig"),
    }


_POD_NETWORK: Final = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "mtu": 1500,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam",
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}
_COREFILE: Final = """\
.:53 {
    errors
    health 127.0.0.1:8180
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {
        kubeconfig KUBECONFIG
        ttl 5
    }
    cache 5
}
"""


def _containerd(run: Path, containers: Path) -> str:
    plugins = next(folder for folder in PLUGINS if Path(folder).is_dir())
    return f"""\
version = 2
root = "{containers}"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true  # where the process lacks CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{run}/cni"
"""


def _kubelet(run: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CONTROL_GROUP}",
        "failSwapOn": False,
        "clusterDNS": [ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{run}/certificates/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "podLogsDir": f"{run}/pod-logs",
        "volumePluginDir": f"{run}/volume-plugins",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # So that a changed ConfigMap or Secret reaches the pods within seconds.
        "syncFrequency": "5s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
    }


_METRICS: Final = {"name": "metrics-server", "namespace": "kube-system"}
# metrics-server runs outside of pods.
METRICS_API: Final = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _METRICS,
        "spec": {"ports": [{"port": 443, "targetPort": 4443}]},
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**_METRICS, "labels": {"kubernetes.io/service-name": "metrics-server"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 4443}],
        "endpoints": [{"addresses": [ADDRESS]}],
    },
    {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io"},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "service": _METRICS,
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    },
]
