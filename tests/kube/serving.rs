//! The certificate to serve pods with, as a person gets it: `lite-apiserver cert` asks for it, and the cluster signs it, in
//! the words that the command prints.

use crate::kubectl::Kubectl;
use crate::support::eventually;
use crate::support::pki::Pair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;
use std::process::Command;

/// The certificate of the node `edge1`, for these addresses besides the usual ones, and its key; they are put into `folder`.
pub fn signed_by_the_cluster(program: &Path, direct: &Kubectl, folder: &Path, addresses: &[&str]) -> Pair {
    let clusters = direct.must("get service kubernetes -o jsonpath={.spec.clusterIP}");
    let said = Command::new(program)
        .args(["cert", "--service-ip", &clusters, "--node-name", "edge1"])
        .args(addresses.iter().flat_map(|address| ["--address", address]))
        .arg("--output")
        .arg(folder)
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{said:?}");
    let line = |verb: &str| text.lines().find_map(|l| l.trim().strip_prefix(verb)).expect("the step").to_owned();
    direct.must(&format!("create {}", line("kubectl create ")));
    direct.must(&format!("certificate {}", line("kubectl certificate ")));
    let get = "get csr lite-apiserver-edge1 -o jsonpath={.status.certificate}";
    eventually("it is signed", || !direct.must(get).is_empty());
    let pem = STANDARD.decode(direct.must(get)).expect("base64");
    let pair = Pair { cert: folder.join("lite-apiserver.crt"), key: folder.join("lite-apiserver.key") };
    std::fs::write(&pair.cert, pem).expect("written");
    pair
}
