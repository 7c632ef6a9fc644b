//! What cannot be had without the cluster: refused quickly, in words in which kubectl's user understands that the link is
//! down and since when, and with nothing done.

use crate::kubectl::{Kubectl, Said};
use std::time::Duration;

/// What would change something. Not `cordon`: kubectl 1.34 tells of the error, and exits 0.
const WRITES: [&str; 9] = [
    "apply -f change.yaml",
    "create -f change.yaml",
    "create configmap offers -n shop --from-literal=today=plums",
    "replace -f change.yaml",
    "delete configmap prices -n shop",
    "label pod web-0 -n shop seen=yes",
    "patch deployment web -n shop -p {\"spec\":{\"replicas\":3}}",
    "scale deployment web -n shop --replicas=3",
    "taint node edge1 cut=off:NoSchedule",
];

/// What only the cluster knows, or was never read.
const OTHERS: [&str; 5] = [
    "logs web-0 -n shop",
    "exec web-0 -n shop -- true",
    // Never recorded.
    "get events -n shop",
    // Never read before.
    "get endpointslices -A",
    // A ConfigMap's is the only description that fails where its events cannot be had (kubectl 1.34, `describe.go`).
    "describe configmap prices -n shop",
];

const LIMIT: Duration = Duration::from_secs(1);

/// A busy machine may make one run slow; the best of so many counts.
const TRIES: usize = 3;

/// All of it, while the link is down; what a few said is printed.
pub fn all(node: &Kubectl) {
    let mut complaints = Vec::new();
    for (i, arguments) in WRITES.iter().chain(&OTHERS).enumerate() {
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            let said = node.run(arguments);
            best = best.min(said.took);
            if !is_refused(&said, i < WRITES.len()) {
                complaints.push(format!("kubectl {arguments}: {said:?}"));
            }
            if best < LIMIT {
                let last = said.err.lines().last().unwrap_or_default();
                println!("kubectl {arguments}: {:.2} s\n    {last}", best.as_secs_f32());
                break;
            }
        }
        if best >= LIMIT {
            complaints.push(format!("kubectl {arguments}: {best:?}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn is_refused(said: &Said, write: bool) -> bool {
    said.code != 0
        && said.err.contains("the link from this node to the cluster is down since 20")
        && said.err.contains("nothing was changed, try again when it is back") == write
}

/// While the link is up, what the apiserver itself cannot do is told in its own words.
pub fn logs_online(direct: &Kubectl, node: &Kubectl) {
    let [one, other] = [direct, node].map(|k| k.run("logs web-0 -n shop"));
    assert_eq!((one.code, &one.err), (other.code, &other.err));
    assert!(one.code == 1 && one.err.contains("connection refused"), "{one:?}");
}
