//! The bodies that are asked for: JSON as kube-apiserver writes it, of a length that is chosen.

use std::fs;
use std::path::Path;

/// One thing to ask for.
pub struct Question {
    /// What the table calls it.
    pub name: &'static str,
    pub target: &'static str,
    pub body: Vec<u8>,
}

/// A small object, a large one and a long list.
pub fn questions() -> [Question; 3] {
    let get = |name, target, size| Question { name, target, body: config_map(target, size) };
    [
        get("1 KB object", "/api/v1/namespaces/shop/configmaps/small", 1 << 10),
        get("100 KB object", "/api/v1/namespaces/shop/configmaps/large", 100 << 10),
        Question { name: "5 MB list", target: "/api/v1/pods", body: pod_list(5 << 20) },
    ]
}

/// Puts each body where a server of static files looks for it, and an answer for the probe of the link.
pub fn write_below(root: &Path, questions: &[Question]) {
    for (target, body) in questions.iter().map(|q| (q.target, q.body.as_slice())).chain([("/readyz", &b"ok"[..])]) {
        let file = root.join(target.trim_start_matches('/'));
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, body).expect("written");
    }
}

fn config_map(target: &str, size: usize) -> Vec<u8> {
    let name = target.rsplit('/').next().unwrap_or_default();
    let metadata = metadata("shop", name, size as u64);
    let around =
        format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{metadata},"data":{{"settings.conf":""}}}}"#);
    let filling = filling(size.saturating_sub(around.len()));
    format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{metadata},"data":{{"settings.conf":"{filling}"}}}}"#)
        .into_bytes()
}

/// Pods of about 4 KB each.
fn pod_list(size: usize) -> Vec<u8> {
    let mut list =
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"900000"},"items":["#.to_owned();
    for number in 0.. {
        let pod = pod(number);
        if list.len() + pod.len() + 3 > size {
            break;
        }
        if number > 0 {
            list.push(',');
        }
        list.push_str(&pod);
    }
    list.push_str("]}");
    list.into_bytes()
}

fn pod(number: u64) -> String {
    let metadata = metadata("shop", &format!("front-7d4b9c6f5-{number:05}"), 100_000 + number);
    let variables: Vec<_> =
        (0..40).map(|n| format!(r#"{{"name":"SETTING_{n:02}","value":"{}"}}"#, filling(40))).collect();
    let variables = variables.join(",");
    let container = format!(
        r#"{{"name":"front","image":"registry.example.com/shop/front:1.17.3","ports":[{{"containerPort":8080,"protocol":"TCP"}}],"env":[{variables}],"resources":{{"limits":{{"memory":"128Mi"}},"requests":{{"cpu":"50m"}}}},"terminationMessagePath":"/dev/termination-log","imagePullPolicy":"IfNotPresent"}}"#
    );
    format!(
        r#"{{"metadata":{metadata},"spec":{{"containers":[{container}],"restartPolicy":"Always","nodeName":"edge1"}},"status":{{"phase":"Running","hostIP":"10.0.0.7","podIP":"10.244.1.9"}}}}"#
    )
}

fn metadata(namespace: &str, name: &str, version: u64) -> String {
    format!(
        r#"{{"name":"{name}","namespace":"{namespace}","uid":"6b2f5c1e-90d4-4a7e-8f3c-{version:012x}","resourceVersion":"{version}","creationTimestamp":"2026-11-24T14:05:15Z","labels":{{"app":"front"}}}}"#
    )
}

/// Text of a length that is plain in JSON.
fn filling(length: usize) -> String {
    "listen on 8080; answer in plain words; ".chars().cycle().take(length).collect()
}
