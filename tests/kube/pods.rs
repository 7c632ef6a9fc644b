//! Pods through the proxy, as a real control plane has it: the endpoints of the Service `kubernetes` lead to the proxy for
//! who asks it, and to the cluster for who asks the cluster; and a client in a pod, which has a token and the CA from
//! `kube-root-ca.crt`, trusts the certificate that kube-controller-manager signed for `lite-apiserver cert`.

use crate::bed::Program;
use crate::cable::{Cable, Relay};
use crate::control_plane::ControlPlane;
use crate::kubectl::Kubectl;
use crate::scene;
use crate::serving::signed_by_the_cluster;
use crate::support::client::{Client, Reply, tls_of};
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::{TempDir, eventually};
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::path::Path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_lite-apiserver");
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const PROTOBUF: &str = "Accept: application/vnd.kubernetes.protobuf";

/// Where pods would be led; nothing is there.
const THERE: &str = "192.0.2.51:51003";

/// An answer to a pod, which knows the API by the clusterIP and by a name.
fn pod(proxy: &Proxy, root: &str, token: &str, name: &str, path: &str) -> Reply {
    let named = ServerName::try_from(name.to_owned()).expect("a name");
    let mut pod =
        Client::try_connect_as(([127, 0, 0, 2], proxy.port).into(), &tls_of(root, None), named).expect("trusted");
    pod.get_with(path, &[&format!("Authorization: Bearer {token}")])
}

#[test]
fn pods_are_led_here_and_trust_who_answers() {
    let _alone = scene::alone();
    let kube = Program::Kube.built();
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let control_plane = ControlPlane::start(&kube, &pki);
    let relay = Relay::start(control_plane.port());
    let direct = Kubectl::new(&kube, control_plane.admin());
    let serving = signed_by_the_cluster(Path::new(PROGRAM), &direct, folder.path(), &[]);
    direct.must("create configmap prices --from-literal=tea=2");
    direct.must("create role reader --verb=get,list,watch --resource=configmaps,endpointslices.discovery.k8s.io");
    direct.must("create rolebinding reader --role=reader --serviceaccount=default:default");
    direct.must("create clusterrolebinding edge1 --clusterrole=cluster-admin --user=system:node:edge1");
    eventually("the CA is published", || direct.run("get configmap kube-root-ca.crt").code == 0);
    let root = direct.must(r"get configmap kube-root-ca.crt -o jsonpath={.data.ca\.crt}");
    let token = direct.must("create token default").trim().to_owned();
    let flags = [
        format!("--tls-cert-file={}", serving.cert.display()),
        format!("--tls-private-key-file={}", serving.key.display()),
        "--address=127.0.0.1,127.0.0.2".to_owned(),
        format!("--rewrite-kubernetes-service={THERE}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, relay.port(), &flags);

    let clusters = direct.must("get service kubernetes -o jsonpath={.spec.clusterIP}");
    let told = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let true_one = told(&direct.must("get endpointslice kubernetes -o json"));
    assert_eq!(true_one["endpoints"][0]["addresses"][0], "192.0.2.1");
    let mut expected = true_one.clone();
    expected["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    expected["endpoints"][0]["addresses"][0] = "192.0.2.51".into();
    expected["ports"][0]["port"] = 51003.into();
    let names = [clusters.as_str(), "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
    let seen = || {
        assert_eq!(proxy.get(SLICE).json(), expected);
        let in_protobuf = proxy.client(Some(NODE)).get_with(SLICE, &[PROTOBUF]);
        assert!(in_protobuf.text().contains("192.0.2.51") && !in_protobuf.text().contains("192.0.2.1\u{12}"));
        for name in names {
            let maps = pod(&proxy, &root, &token, name, "/api/v1/namespaces/default/configmaps");
            assert!(maps.status() == 200 && maps.text().contains("\"tea\":\"2\""), "{name}: {}", maps.text());
            assert_eq!(pod(&proxy, &root, &token, name, SLICE).json(), expected, "{name}");
        }
    };
    seen();
    relay.set(Cable::Refused);
    proxy.client(None).get("/livez");
    proxy.await_link(false);
    seen();
    assert_eq!(told(&direct.must("get endpointslice kubernetes -o json")), true_one, "nothing was written");
}
