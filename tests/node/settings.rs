//! What is written on the node's disk for its programs: how containerd, its network, kubelet and kube-proxy are set up, and
//! lite-apiserver where it is a static pod.

use crate::edge::{CERTIFICATES, NAME, SOCKET};
use serde_json::json;
use std::path::Path;

/// runc under two names: the second is for pods of the RuntimeClass `demo`, which start in no other way.
pub fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.demo]
    runtime_type = "io.containerd.runc.v2"
"#
    )
}

pub fn cni() -> String {
    let ipam =
        json!({"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": ipam,
    });
    json!({"cniVersion": "0.4.0", "name": "lite", "plugins": [bridge]}).to_string()
}

pub fn kubelet_config(ca: &Path, certificate: &Path, key: &Path, resolver: &Path) -> String {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": ca}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false,
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local", "resolvConf": resolver,
        "staticPodPath": "/etc/kubernetes/manifests",
        "tlsCertFile": certificate, "tlsPrivateKeyFile": key,
        // What kubeadm sets: its client certificate is renewed through the API.
        "rotateCertificates": true,
        // The disk is the machine's: how full it is, is no matter of the node's.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
    })
    .to_string()
}

pub fn kube_proxy_config(kubeconfig: &Path) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": "iptables", "clusterCIDR": "10.244.0.0/16", "hostnameOverride": NAME,
        "clientConnection": {"kubeconfig": kubeconfig},
        // A pod of the same bridge would answer past the node, from an address that was not asked.
        "iptables": {"masqueradeAll": true},
        // What would be set for the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
    .to_string()
}

/// lite-apiserver as a static pod: its files are where they are on the node.
pub fn lite_pod(flags: &[String], folder: &Path, ca: &Path) -> String {
    let pki = ca.parent().expect("a folder");
    let volumes = json!([
        {"name": "node", "hostPath": {"path": folder}},
        {"name": "pki", "hostPath": {"path": pki}},
        {"name": "kubelet", "hostPath": {"path": CERTIFICATES}},
    ]);
    let mounts = json!([
        {"name": "node", "mountPath": folder},
        {"name": "pki", "mountPath": pki, "readOnly": true},
        {"name": "kubelet", "mountPath": CERTIFICATES, "readOnly": true},
    ]);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lite-apiserver", "namespace": "kube-system"},
        "spec": {
            "hostNetwork": true, "priorityClassName": "system-node-critical",
            "containers": [{
                "name": "lite-apiserver", "image": "localhost/lite-apiserver:1", "imagePullPolicy": "IfNotPresent",
                "args": flags, "volumeMounts": mounts,
                // For `--dummy-interface`.
                "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
            }],
            "volumes": volumes,
        },
    })
    .to_string()
}
