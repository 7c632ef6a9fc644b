//! What kind of node this is: which kubeconfigs there are, by where kubeadm, k3s and plain kubelets have them.

use super::command::Wanted;
use super::root::Root;
use crate::failed::{Failed, failed};
use std::path::{Path, PathBuf};

const KUBEADM: &str = "/etc/kubernetes/kubelet.conf";
const K3S: &str = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig";
const PLAIN: &str = "/var/lib/kubelet/kubeconfig";

/// Who put the kubelet here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// kube-proxy runs as a pod, whose kubeconfig is in the cluster.
    Kubeadm,
    /// kubelet and kube-proxy are parts of the agent, which writes their kubeconfigs anew each time it starts.
    K3s,
    Plain,
}

/// The kubeconfigs of a node, as the node sees them.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) kubelet: PathBuf,
    pub(super) kube_proxy: Option<PathBuf>,
    pub(super) kubectl: Option<PathBuf>,
}

impl Node {
    pub(super) fn find(wanted: &Wanted, root: &Root) -> Result<Node, Failed> {
        let there = |path: &str| Some(PathBuf::from(path)).filter(|path| root.has(path));
        let kubelet = wanted.kubelet.clone().or_else(|| [KUBEADM, K3S, PLAIN].into_iter().find_map(there));
        let kubelet = kubelet.ok_or_else(|| {
            let why = format!("there is no kubelet's kubeconfig: neither {KUBEADM} nor {K3S} nor {PLAIN}");
            failed(
                66,
                format!("setup: {why}; join the node to its cluster first, or name it with --kubelet-kubeconfig"),
            )
        })?;
        let kind = match kubelet.as_path() {
            path if path == Path::new(KUBEADM) => Kind::Kubeadm,
            path if path == Path::new(K3S) => Kind::K3s,
            _ => Kind::Plain,
        };
        let kube_proxy = wanted.kube_proxy.clone().or_else(|| match kind {
            Kind::Kubeadm => None,
            Kind::K3s => there("/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig"),
            Kind::Plain => there("/var/lib/kube-proxy/kubeconfig"),
        });
        let kubectl = wanted.kubectl.clone().or_else(|| there("/etc/kubernetes/admin.conf"));
        Ok(Node { kind, kubelet, kube_proxy, kubectl })
    }
}
