//! What decides a pod's endpoints.

use crate::record::pod::address;
use crate::record::{Malformed, Pod, PodStatus};
use serde_json::Value;

/// Reads a pod. It is one object, and not large: all of it is parsed.
///
/// # Errors
/// It is no JSON object.
pub(in crate::record) fn pod(object: &[u8]) -> Result<Pod, Malformed> {
    let object: Value = serde_json::from_slice(object).map_err(|_| Malformed::Syntax)?;
    if !object.is_object() {
        return Err(Malformed::Syntax);
    }
    let text = |within: &Value, name: &str| within[name].as_str().unwrap_or_default().to_owned();
    let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    let list = |within: &Value| within.as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<_> = list(&status["podIPs"]).iter().filter_map(|a| address(a["ip"].as_str()?)).collect();
    if addresses.is_empty() {
        addresses.extend(status["podIP"].as_str().and_then(address));
    }
    let ready = list(&status["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    Ok(Pod {
        namespace: text(metadata, "namespace"),
        name: text(metadata, "name"),
        uid: text(metadata, "uid"),
        node: text(spec, "nodeName"),
        host_network: spec["hostNetwork"] == true,
        status: PodStatus { phase: text(status, "phase"), ready, addresses },
    })
}
