//! What decides a pod's endpoints: on which node it is, at which addresses, and whether it is ready. As the record has it,
//! and as it becomes by the status patch that its kubelet sends.

use super::{Encoding, Malformed, json, protobuf};
use core::net::IpAddr;
use serde_json::{Map, Value};

/// A pod, as far as its endpoints depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `spec.nodeName`; empty: on none yet.
    pub node: String,
    /// `spec.hostNetwork`: its addresses are the node's, and others' too.
    pub host_network: bool,
    /// Of its status.
    pub status: PodStatus,
}

/// A pod's status, as far as its endpoints depend on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodStatus {
    /// `phase`
    pub phase: String,
    /// Whether the condition `Ready` is `True`.
    pub ready: bool,
    /// `podIPs`, or `podIP` where there are none.
    pub addresses: Vec<IpAddr>,
}

impl PodStatus {
    /// Whether kube-apiserver would take it (`pkg/apis/core/validation/validation.go`, `validatePodIPs`): one address of a
    /// family, and a phase that there is.
    fn is_lawful(&self) -> bool {
        let of_family = |v4: bool| self.addresses.iter().filter(|a| a.is_ipv4() == v4).count();
        let phases = ["", "Pending", "Running", "Succeeded", "Failed", "Unknown"];
        of_family(true) <= 1 && of_family(false) <= 1 && phases.contains(&self.phase.as_str())
    }
}

impl Pod {
    /// Reads a pod as it is kept in a list: of protobuf the bare message.
    ///
    /// # Errors
    /// It is none.
    pub fn read(encoding: Encoding, object: &[u8]) -> Result<Pod, Malformed> {
        match encoding {
            Encoding::Json => json::pod(object),
            Encoding::Protobuf => protobuf::pod(object),
        }
    }

    /// The same of the whole body of an answer.
    ///
    /// # Errors
    /// It is none.
    pub fn read_body(encoding: Encoding, body: &[u8]) -> Result<Pod, Malformed> {
        match encoding {
            Encoding::Json => json::pod(body),
            Encoding::Protobuf => protobuf::pod(&body[protobuf::message(body)?]),
        }
    }
}

/// A strategic merge patch of a pod's status, as kubelets have sent it since 1.12 (`pkg/util/pod/pod.go`, `PatchPodStatus`):
/// always JSON, with the pod's uid, and in it what is to be different from the status that the kubelet has just read.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusPatch {
    /// Of the pod that it is meant for.
    pub uid: String,
    status: Map<String, Value>,
}

impl StatusPatch {
    /// Its media type.
    pub const MEDIA_TYPE: &str = "application/strategic-merge-patch+json";

    /// Reads one; `None`: it is none, or says nothing of which pod it is meant for.
    pub fn read(body: &[u8]) -> Option<StatusPatch> {
        let Value::Object(mut patch) = serde_json::from_slice(body).ok()? else { return None };
        let uid = patch.get("metadata")?.get("uid")?.as_str()?.to_owned();
        let Value::Object(status) = patch.remove("status")? else { return None };
        Some(StatusPatch { uid, status })
    }

    /// What a status becomes by it; `None`: it cannot be told, or is none that the cluster would take.
    pub fn apply(&self, to: &PodStatus) -> Option<PodStatus> {
        let mut status = to.clone();
        match self.status.get("phase") {
            Some(Value::String(phase)) => phase.clone_into(&mut status.phase),
            Some(Value::Null) => status.phase.clear(),
            Some(_) => return None,
            None => {}
        }
        if let Some(conditions) = self.status.get("conditions") {
            status.ready = ready(to.ready, conditions)?;
        }
        let list = self.status.get("podIPs");
        if let Some(list) = list {
            status.addresses = addresses(&to.addresses, list)?;
        }
        match self.status.get("podIP") {
            Some(Value::Null) if list.is_none() => status.addresses.clear(),
            Some(Value::String(first)) if list.is_none() => {
                let first = address(first)?;
                status.addresses.retain(|held| held.is_ipv4() != first.is_ipv4());
                status.addresses.insert(0, first);
            }
            _ => {}
        }
        status.is_lawful().then_some(status)
    }
}

/// An address, as Go reads it: of IPv4 also where it is written within IPv6.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// What a patch says of a list that is merged by a key
/// (`staging/src/k8s.io/apimachinery/pkg/util/strategicpatch/patch.go`, `mergeSliceWithSpecialElements`).
#[derive(Default)]
struct Merged<'a> {
    /// Entries, and of each whether it is to go.
    entries: Vec<(&'a Map<String, Value>, bool)>,
    /// They take the place of all that was there.
    instead: bool,
}

impl Merged<'_> {
    fn read(list: &Value) -> Option<Merged<'_>> {
        let items = match list {
            Value::Null => return Some(Merged { instead: true, ..Merged::default() }),
            Value::Array(items) => items,
            _ => return None,
        };
        let mut merged = Merged::default();
        for item in items {
            let item = item.as_object()?;
            match item.get("$patch").map(|directive| directive.as_str()) {
                None => merged.entries.push((item, false)),
                Some(Some("delete")) => merged.entries.push((item, true)),
                Some(Some("replace")) => merged.instead = true,
                Some(_) => return None,
            }
        }
        Some(merged)
    }
}

/// An entry without a status has that of before: only its time is another.
fn ready(held: bool, conditions: &Value) -> Option<bool> {
    let Merged { entries, instead } = Merged::read(conditions)?;
    let mut ready = held && !instead;
    for (entry, goes) in entries {
        if entry.get("type").and_then(Value::as_str) == Some("Ready") {
            ready = match entry.get("status") {
                _ if goes => false,
                Some(status) => status.as_str() == Some("True"),
                None => ready,
            };
        }
    }
    Some(ready)
}

fn addresses(held: &[IpAddr], list: &Value) -> Option<Vec<IpAddr>> {
    let Merged { entries, instead } = Merged::read(list)?;
    let mut kept = if instead { Vec::new() } else { held.to_vec() };
    let mut new = Vec::new();
    for (entry, goes) in entries {
        let address = address(entry.get("ip")?.as_str()?)?;
        kept.retain(|held| *held != address);
        if !goes {
            new.push(address);
        }
    }
    new.append(&mut kept);
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::protobuf::wire;
    use serde_json::json;

    fn held() -> PodStatus {
        PodStatus { phase: "Running".into(), ready: true, addresses: vec![ip("10.0.0.5"), ip("fd00::5")] }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn patched(status: &Value) -> Option<PodStatus> {
        let body = json!({"metadata": {"uid": "u"}, "status": status}).to_string();
        StatusPatch::read(body.as_bytes()).expect("a patch").apply(&held())
    }

    #[test]
    fn a_patch_says_what_is_different() {
        let is = |status: Value, phase: &str, ready: bool, addresses: &[&str]| {
            let addresses = addresses.iter().map(|a| ip(a)).collect();
            let want = PodStatus { phase: phase.into(), ready, addresses };
            assert_eq!(patched(&status), Some(want), "{status}");
        };
        let both: &[&str] = &["10.0.0.5", "fd00::5"];
        is(json!({"startTime": "x"}), "Running", true, both);
        is(json!({"phase": "Failed"}), "Failed", true, both);
        // As a kubelet 1.34 sends it after a boot: the address is another, Ready is as before but since another time.
        is(
            json!({
                "$setElementOrder/conditions": [{"type": "Ready"}], "$setElementOrder/podIPs": [{"ip": "10.0.0.9"}],
                "conditions": [{"lastTransitionTime": "x", "type": "Ready"}],
                "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}, {"$patch": "delete", "ip": "10.0.0.5"}],
            }),
            "Running",
            true,
            &["10.0.0.9", "fd00::5"],
        );
        let not = json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}]);
        is(json!({"conditions": not, "podIP": null, "podIPs": null}), "Running", false, &[]);
        is(json!({"conditions": [{"type": "Ready", "$patch": "delete"}]}), "Running", false, both);
        is(json!({"conditions": null}), "Running", false, both);
        is(json!({"conditions": [{"$patch": "replace"}, {"type": "Other"}]}), "Running", false, both);
        is(json!({"podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.9"}]}), "Running", true, &["10.0.0.9"]);
        is(json!({"podIP": "10.0.0.9"}), "Running", true, &["10.0.0.9", "fd00::5"]);
        is(json!({"podIP": null}), "Running", true, &[]);
    }

    #[test]
    fn what_cannot_be_told_is_not_guessed() {
        for status in [
            json!({"podIPs": [{"ip": "10.0.0.300"}]}),
            json!({"podIPs": ["10.0.0.9"]}),
            json!({"podIPs": "10.0.0.9"}),
            json!({"podIPs": [{"ip": "10.0.0.9", "$patch": "merge"}]}),
            json!({"podIP": "10.0.0.9, 10.0.0.10"}),
            json!({"conditions": [1]}),
            json!({"phase": 1}),
        ] {
            assert_eq!(patched(&status), None, "{status}");
        }
        for body in [
            "",
            "[]",
            r#"{"status":{}}"#,
            r#"{"metadata":{"uid":1},"status":{}}"#,
            r#"{"metadata":{"uid":"u"}}"#,
            r#"{"metadata":{"uid":"u"},"status":[]}"#,
        ] {
            assert_eq!(StatusPatch::read(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn a_pod_is_the_same_in_both_encodings() {
        let want = Pod {
            namespace: "shop".into(),
            name: "web-1".into(),
            uid: "u".into(),
            node: "edge1".into(),
            host_network: true,
            status: held(),
        };
        let json = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u"},
            "spec": {"nodeName": "edge1", "hostNetwork": true},
            "status": {
                "phase": "Running", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}],
                "conditions": [{"type": "Initialized", "status": "False"}, {"type": "Ready", "status": "True"}],
            },
        });
        assert_eq!(Pod::read(Encoding::Json, json.to_string().as_bytes()).as_ref(), Ok(&want));
        let message = |fields: &[(u32, &[u8])]| {
            let mut out = Vec::new();
            fields.iter().for_each(|(number, content)| wire::put(*number, content, &mut out));
            out
        };
        let meta = message(&[(1, b"web-1"), (3, b"shop"), (5, b"u")]);
        let spec = [message(&[(10, b"edge1")]), b"\x58\x01".to_vec()].concat();
        let condition = |kind: &[u8], status: &[u8]| message(&[(1, kind), (2, status)]);
        let status = message(&[
            (1, b"Running"),
            (2, &condition(b"Initialized", b"False")),
            (2, &condition(b"Ready", b"True")),
            (6, b"10.0.0.5"),
            (12, &message(&[(1, b"10.0.0.5")])),
            (12, &message(&[(1, b"fd00::5")])),
        ]);
        let pod = message(&[(1, &meta), (2, &spec), (3, &status)]);
        assert_eq!(Pod::read(Encoding::Protobuf, &pod), Ok(want));
        let mut body = b"k8s\0".to_vec();
        wire::put(2, &pod, &mut body);
        assert_eq!(Pod::read_body(Encoding::Protobuf, &body), Pod::read(Encoding::Protobuf, &pod));
        // Of before podIPs, or before it has any.
        let old = json!({"metadata": {"name": "a"}, "status": {"podIP": "10.0.0.5"}}).to_string();
        assert_eq!(Pod::read(Encoding::Json, old.as_bytes()).expect("a pod").status.addresses, [ip("10.0.0.5")]);
        assert_eq!(Pod::read(Encoding::Json, b"{}"), Ok(Pod::default()));
        assert_eq!(Pod::read(Encoding::Protobuf, &pod[..pod.len() - 1]), Err(Malformed::Syntax));
        assert_eq!(Pod::read(Encoding::Json, b"[]"), Err(Malformed::Syntax));
    }
}
