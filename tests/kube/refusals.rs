//! What cannot be had without the cluster: refused quickly, in words in which kubectl's user understands that the link is
//! down and since when, and with nothing done.

use crate::kubectl::Kubectl;
use std::time::Duration;

const REFUSED: [&str; 13] = [
    "apply -f change.yaml",
    "create -f change.yaml",
    "create configmap offers -n shop --from-literal=today=plums",
    "replace -f change.yaml",
    "delete configmap prices -n shop",
    "label pod web-0 -n shop seen=yes",
    "patch deployment web -n shop -p {\"spec\":{\"replicas\":3}}",
    "scale deployment web -n shop --replicas=3",
    "cordon edge1",
    "logs web-0 -n shop",
    "exec web-0 -n shop -- true",
    // Never recorded, and never read before.
    "get events -n shop",
    "get endpointslices -A",
];

const LIMIT: Duration = Duration::from_secs(1);

/// A busy machine may make one run slow; the best of so many counts.
const TRIES: usize = 3;

/// All of it, while the link is down.
pub fn all(node: &Kubectl) {
    let mut complaints = Vec::new();
    for arguments in REFUSED {
        let mut best = Duration::MAX;
        for _ in 0..TRIES {
            let said = node.run(arguments);
            best = best.min(said.took);
            if said.code == 0 || !said.err.contains("the link from this node to the cluster is down since 20") {
                complaints.push(format!("kubectl {arguments}: {said:?}"));
            }
            if best < LIMIT {
                break;
            }
        }
        if best >= LIMIT {
            complaints.push(format!("kubectl {arguments}: {best:?}"));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// While the link is up, what the apiserver itself cannot do is told in its own words.
pub fn logs_online(direct: &Kubectl, node: &Kubectl) {
    let [one, other] = [direct, node].map(|k| k.run("logs web-0 -n shop"));
    assert_eq!((one.code, &one.err), (other.code, &other.err));
    assert!(one.code == 1 && one.err.contains("connection refused"), "{one:?}");
}
