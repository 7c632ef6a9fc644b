//! The cluster, the cable and the node: what each story begins with.

use crate::bed::Program;
use crate::cable::Relay;
use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::support::pki::Pki;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Everything that runs. Dropped from the node's end.
pub struct Scene {
    pub proxy: Proxy,
    pub relay: Relay,
    /// As on the node: through the proxy, by the kubeconfig that it wrote.
    pub node: Kubectl,
    /// As in the data centre: straight to kube-apiserver.
    pub direct: Kubectl,
    pub control_plane: ControlPlane,
    _folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// Stories are told one at a time: two control planes are more than a small machine has, and the times are looked at.
static ALONE: Mutex<()> = Mutex::new(());

/// Nobody else tells a story while this is held.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scene {
    /// A control plane, a whole cable, and the proxy as a person with a kubeconfig starts it.
    pub fn start() -> Scene {
        let alone = alone();
        let kube = Program::Kube.built();
        let begun = Instant::now();
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let control_plane = ControlPlane::start(&kube, &pki);
        println!("the control plane is ready after {:.1} s", begun.elapsed().as_secs_f32());
        let relay = Relay::start(control_plane.port());
        let program = [env!("CARGO_BIN_EXE_lite-apiserver").to_owned()];
        let proxy = Proxy::start_with_kubeconfig(&program, pki, &control_plane.admin_through(relay.port()), &[]);
        let for_clients = Scene::kubeconfig_of(&proxy);
        eventually("its path is printed", || proxy.log().contains(&for_clients.display().to_string()));
        let (node, direct) = (Kubectl::new(&kube, for_clients), Kubectl::new(&kube, control_plane.admin()));
        Scene { proxy, relay, node, direct, control_plane, _folder: folder, _alone: alone }
    }

    /// The kubeconfig of clients on the node.
    pub fn for_clients(&self) -> PathBuf {
        Scene::kubeconfig_of(&self.proxy)
    }

    fn kubeconfig_of(proxy: &Proxy) -> PathBuf {
        proxy.data().join("client.kubeconfig")
    }

    /// Makes a namespace that pods can be made in.
    pub fn namespace(&self, name: &str) {
        self.node.must(&format!("create namespace {name}"));
        eventually("the namespace has its service account", || {
            self.direct.run(&format!("get serviceaccount default -n {name}")).code == 0
        });
    }

    /// Makes the kind of somebody else's.
    pub fn widgets(&self) {
        let said = self.node.must("apply -f widgets.yaml");
        assert_eq!(said, "customresourcedefinition.apiextensions.k8s.io/widgets.example.com created\n");
        self.node.must("wait --for=condition=established crd/widgets.example.com --timeout=20s");
    }
}
