//! The cluster and its one node, with kubectl on both sides.

use crate::Wish;
use crate::bed::Program;
use crate::control_plane::ControlPlane;
use crate::edge::{CLOUD, Edge, FOR_PODS, NAME, Setup, Told};
use crate::kubectl::{Kubectl, Said};
use crate::machine::run;
use crate::serving::signed_by_the_cluster;
use crate::support::TempDir;
use crate::support::pki::Pki;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Everything that runs. Dropped from the node's end.
pub struct Scene {
    pub edge: Edge,
    /// In the data centre.
    pub cloud: Kubectl,
    /// On the node, through lite-apiserver.
    person: Kubectl,
    /// When the scene began.
    begun: Instant,
    pub pki: Pki,
    _control_plane: ControlPlane,
    _folder: TempDir,
}

/// What the cluster knows of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    pub uid: String,
    pub restarts: u64,
    pub leaving: bool,
}

/// How many answer: of the demonstration's own, and of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub demo: usize,
    pub others: usize,
}

impl Scene {
    /// The control plane, and the node with nothing but its static pod.
    pub fn install(wish: &Wish) -> Scene {
        let begun = Instant::now();
        let (kube, folder) = (Program::Kube.built(), TempDir::new());
        let pki = Pki::new(&folder.path().join("pki"));
        // The cloud is there without a cable, too.
        run("ip", &["addr", "replace", &format!("{CLOUD}/32"), "dev", "lo"]);
        let environment: &[_] = if wish.watch_list { &[("KUBE_FEATURE_WatchListClient", "true")] } else { &[] };
        let control_plane = ControlPlane::start_whole(&kube, &pki, CLOUD, environment);
        let cloud = Kubectl::new(&kube, control_plane.admin());
        let serving = signed_by_the_cluster(&wish.lite, &cloud, &folder.path().join("pki"), &[FOR_PODS]);
        let setup = Setup {
            kube: &kube,
            lite: &wish.lite,
            port: control_plane.port(),
            pki: &pki,
            serving: &serving,
            lite_as: wish.lite_as,
            watch_list: wish.watch_list,
        };
        let edge = Edge::install(&folder.path().join("node"), &setup);
        let person = Kubectl::new(&kube, edge.kubeconfig());
        let mut own = Scene { edge, cloud, person, begun, pki, _control_plane: control_plane, _folder: folder };
        own.say("the control plane is up, the node is installed");
        own.edge.boot();
        own.wait("the node is known", 60, |s| s.cloud.run(&format!("get node {NAME}")).code == 0);
        own.cloud_waits(&format!("wait --for=condition=Ready node/{NAME}"));
        own.say("the node is Ready");
        own
    }

    /// Deploys, from the node, the demonstration's own and all the others; until they are ready.
    pub fn deploy(&self, pods: usize) {
        self.wait("the default service account", 30, |s| s.cloud.run("get serviceaccount default").code == 0);
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/manifests/demo.yaml");
        for arguments in [
            // Of the ring of real components.
            "apply -f widgets.yaml".to_owned(),
            "wait --for=condition=established crd/widgets.example.com --timeout=20s".to_owned(),
            format!("apply -f {manifest}"),
            format!("scale deployment lite-demo --replicas={pods}"),
        ] {
            let said = self.on_node(&arguments);
            assert_eq!(said.code, 0, "{arguments}: {}{}", said.out, said.err);
        }
        self.settled();
        self.say(&format!("{pods} pods of lite-demo are Ready"));
    }

    /// Waits until what is deployed is ready, and the static pod is known.
    pub fn settled(&self) {
        self.cloud_waits("rollout status deployment lite-demo");
        self.cloud_waits("rollout status deployment client");
        self.cloud_waits("rollout status daemonset host");
        self.cloud_waits("rollout status daemonset control");
        self.cloud_waits(&format!("wait --for=condition=Ready pod/static-{NAME}"));
    }

    /// kubectl in the data centre, which waits for something.
    pub fn cloud_waits(&self, arguments: &str) {
        let begun = Instant::now();
        // kubectl is given up after 30 s.
        while self.cloud.run(&format!("{arguments} --timeout=20s")).code != 0 {
            let patience = begun.elapsed() < Duration::from_secs(120);
            assert!(
                patience,
                "in vain: {arguments}\n{}{}",
                self.cloud.run("get pods,events -A -o wide").out,
                self.edge.logs()
            );
        }
    }

    /// Waits for something; panics with `what` where it does not come.
    pub fn wait(&self, what: &str, seconds: u64, done: impl Fn(&Scene) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < Duration::from_secs(seconds), "waited in vain: {what}{}", self.edge.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// kubectl, as the person at the node runs it.
    pub fn on_node(&self, arguments: &str) -> Said {
        self.edge.on_node(|| self.person.run(arguments))
    }

    /// What answers as it should.
    pub fn answers(&self) -> BTreeMap<String, Told> {
        let is = |told: &Told, name: &str, value: &str| told.get(name).is_some_and(|held| held == value);
        let whole = |name: &str, told: &Told| {
            !name.starts_with("lite-demo-")
                || is(told, "NODE_NAME", NAME)
                    && is(told, "configmap/colour", "green")
                    && is(told, "fetched/colour", "green")
                    && is(told, "secret/word", "sesame")
                    && !is(told, "token", "0 bytes")
        };
        self.edge.answers().into_iter().filter(|(name, told)| whole(name, told)).collect()
    }

    /// What the cluster knows of the pods that answer.
    pub fn known(&self) -> BTreeMap<String, Known> {
        let list: Value = serde_json::from_str(&self.cloud.must("get pods -A -o json")).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let known = |pod: &Value| Known {
            // A static pod's mirror is made anew each time; the pod's own uid is the hash of its file.
            uid: Some(&pod["metadata"]["annotations"]["kubernetes.io/config.hash"])
                .filter(|hash| hash.is_string())
                .map_or_else(|| text(&pod["metadata"]["uid"]), text),
            restarts: pod["status"]["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|c| c["restartCount"].as_u64())
                .sum(),
            leaving: pod["metadata"]["deletionTimestamp"].is_string(),
        };
        let pods = list["items"].as_array().expect("items");
        pods.iter().map(|pod| (text(&pod["metadata"]["name"]), known(pod))).collect()
    }

    /// What happened, and when.
    pub fn say(&self, what: &str) {
        println!("[{:5.1} s] {what}", self.begun.elapsed().as_secs_f32());
    }
}

impl Count {
    pub fn of(answers: &BTreeMap<String, Told>) -> Count {
        let demo = answers.keys().filter(|name| name.starts_with("lite-demo-")).count();
        Count { demo, others: answers.len() - demo }
    }
}

impl std::fmt::Display for Count {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}+{}", self.demo, self.others)
    }
}
