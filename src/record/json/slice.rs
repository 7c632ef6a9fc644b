//! An EndpointSlice, corrected. Its endpoints are written anew; all else of it stays as it came.

use super::token::{self, Span};
use crate::record::whereabouts::{Becomes, Conditions, Endpoint};
use crate::record::{Malformed, Whereabouts};
use serde_json::Value;
use std::ops::Range;

/// See [`Whereabouts::correct`].
///
/// # Errors
/// It is no slice.
pub(in crate::record) fn corrected(
    slice: &[u8],
    by: &Whereabouts,
    at: Option<u64>,
    anyway: bool,
) -> Result<Option<Vec<u8>>, Malformed> {
    let members = token::members(slice)?;
    let (Some(metadata), Some(family), Some(listed)) =
        (only(&members, b"metadata"), only(&members, b"addressType"), only(&members, b"endpoints"))
    else {
        return Ok(None);
    };
    let family = text(&slice[family])?;
    let endpoints: Option<Vec<Value>> =
        serde_json::from_slice(&slice[listed.clone()]).map_err(|_| Malformed::Syntax)?;
    let Some(mut endpoints) = endpoints else { return Ok(None) };
    let mut touched = anyway;
    endpoints.retain_mut(|endpoint| {
        let becomes = by.of(&understood(endpoint), &family);
        touched |= becomes != Becomes::AsItWas;
        match becomes {
            Becomes::AsItWas => true,
            Becomes::Gone => false,
            Becomes::At { addresses, ready } => {
                endpoint["addresses"] = addresses.into();
                put_conditions(endpoint, ready);
                true
            }
        }
    });
    if !touched {
        return Ok(None);
    }
    let mut edits = vec![(listed, serde_json::to_vec(&endpoints).map_err(|_| Malformed::Syntax)?)];
    if let Some(list) = at
        && let Some(own) = only(&token::members(&slice[metadata.clone()])?, b"resourceVersion")
    {
        let own = metadata.start + own.start..metadata.start + own.end;
        if let Some(version) = by.version(&text(&slice[own.clone()])?, list) {
            edits.push((own, format!("\"{version}\"").into_bytes()));
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let (mut out, mut copied) = (Vec::with_capacity(slice.len() + 64), 0);
    for (range, with) in edits {
        out.extend_from_slice(&slice[copied..range.start]);
        out.extend_from_slice(&with);
        copied = range.end;
    }
    out.extend_from_slice(&slice[copied..]);
    Ok(Some(out))
}

/// The value of a member; `None` where there is none, or more than one.
fn only(members: &[Span], name: &[u8]) -> Option<Range<usize>> {
    let mut found = members.iter().filter(|m| m.key == name);
    let one = found.next()?.value.clone();
    found.next().is_none().then_some(one)
}

fn text(value: &[u8]) -> Result<String, Malformed> {
    serde_json::from_slice(value).map_err(|_| Malformed::Syntax)
}

fn understood(endpoint: &Value) -> Endpoint<'_> {
    let target = &endpoint["targetRef"];
    let addresses = endpoint["addresses"].as_array().into_iter().flatten();
    Endpoint {
        target: ["kind", "namespace", "name", "uid"].map(|name| target[name].as_str().unwrap_or_default()),
        node: endpoint["nodeName"].as_str().unwrap_or_default(),
        addresses: addresses.filter_map(Value::as_str).collect(),
    }
}

fn put_conditions(endpoint: &mut Value, ready: bool) {
    let held = &endpoint["conditions"];
    let is = |name: &str| held[name].as_bool();
    let held = Conditions { ready: is("ready"), serving: is("serving"), terminating: is("terminating") };
    let now = held.of(ready);
    if !endpoint["conditions"].is_object() {
        endpoint["conditions"] = Value::Object(serde_json::Map::new());
    }
    for (name, value) in [("ready", now.ready), ("serving", now.serving)] {
        if let Some(value) = value {
            endpoint["conditions"][name] = value.into();
        }
    }
}
