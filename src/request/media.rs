//! Media types: what a client accepts, and what a body is.

/// A media type with its parameters, compared case-insensitively but for parameter values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// `type/subtype`, lower case.
    pub essence: String,
    /// Parameters, names lower case, sorted; without `q`, `charset`, `stream`.
    pub params: Vec<(String, String)>,
}

/// The kinds under which metadata-only bodies travel: one object, and a list of them. A watch answers a request for
/// the list's kind with events of the object's kind, so that both are one representation.
const PARTIAL: &str = "PartialObjectMetadata";

impl MediaType {
    /// Reads one media type; `None` where it is none.
    pub fn parse(text: &str) -> Option<MediaType> {
        Self::parse_with_q(text).map(|(m, _)| m)
    }

    fn parse_with_q(text: &str) -> Option<(MediaType, u16)> {
        let mut parts = text.split(';');
        let essence = parts.next()?.trim().to_ascii_lowercase();
        if !essence.split_once('/').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()) {
            return None;
        }
        let (mut params, mut q) = (Vec::new(), 1000);
        for part in parts {
            let Some((name, value)) = part.split_once('=') else { continue };
            // Found by fuzzing: blanks inside the quotes made a name under which nothing was found again.
            let bare = |c: char| c == '"' || c.is_whitespace();
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim_matches(bare));
            match name.as_str() {
                // RFC 9110 section 12.4.2: a weight from 0 to 1, three decimals.
                "q" => q = weight(value),
                // They change how the body is cut or labelled, not what it is.
                "charset" | "stream" => {}
                "as" if value == "PartialObjectMetadataList" => params.push((name, PARTIAL.to_owned())),
                _ => params.push((name, value.to_owned())),
            }
        }
        params.sort();
        Some((MediaType { essence, params }, q))
    }

    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

impl std::fmt::Display for MediaType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.essence)?;
        self.params.iter().try_for_each(|(n, v)| write!(f, ";{n}={v}"))
    }
}

/// A weight in thousandths; what is no weight counts as none given.
fn weight(text: &str) -> u16 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.bytes().chain(*b"000").take(3).map(|b| char::from(b).to_digit(10));
    match (whole, digits.collect::<Option<Vec<u32>>>()) {
        ("0", Some(d)) => d.iter().fold(0, |n, d| n * 10 + *d as u16),
        _ => 1000,
    }
}

/// The name under which a body is recorded: its media type, and for the kinds that kube-apiserver converts to without
/// saying so in `Content-Type` (Table and PartialObjectMetadata: seen on 1.34, which answers both as plain
/// `application/json`) what the body itself says that it is.
///
/// `body_type` is the body's apiVersion and kind, where known. `None`: no media type at all.
pub fn representation(content_type: &str, body_type: Option<(&str, &str)>) -> Option<String> {
    let mut media = MediaType::parse(content_type)?;
    if let Some((api_version, kind)) = body_type
        && media.param("as").is_none()
        && let Some(("meta.k8s.io", version)) = api_version.split_once('/')
    {
        let kind = kind.strip_suffix("List").unwrap_or(kind);
        if kind == "Table" || kind == PARTIAL {
            for (n, v) in [("as", kind), ("g", "meta.k8s.io"), ("v", version)] {
                media.params.push((n.to_owned(), v.to_owned()));
            }
            media.params.sort();
        }
    }
    Some(media.to_string())
}

/// A client's `Accept`, in the order in which its entries are to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    entries: Vec<MediaType>,
}

impl Accept {
    pub(super) fn parse(value: Option<&str>) -> Accept {
        let mut weighted: Vec<(MediaType, u16)> =
            value.unwrap_or("").split(',').filter_map(MediaType::parse_with_q).collect();
        if weighted.is_empty() {
            weighted.push((MediaType { essence: "*/*".to_owned(), params: Vec::new() }, 1000));
        }
        weighted.retain(|(_, q)| *q > 0);
        // Stable: entries of equal weight stay in the client's order, as kube-apiserver's goautoneg has them.
        weighted.sort_by_key(|(_, q)| std::cmp::Reverse(*q));
        Accept { entries: weighted.into_iter().map(|(m, _)| m).collect() }
    }

    /// The first recorded representation that the client takes, in its order. A wildcard takes JSON first, because
    /// that is what kube-apiserver answers to one, never a conversion that was not asked for by `as`, and never protobuf,
    /// which kube-apiserver sends only to who names it: client-go's JSON clients send `application/json, */*`, and not all
    /// of them can read it.
    pub fn choose<'a>(&self, recorded: &[&'a str]) -> Option<&'a str> {
        self.entries.iter().find_map(|wanted| {
            let takes = |have: &&&str| MediaType::parse(have).is_some_and(|have| matches(wanted, &have));
            recorded
                .iter()
                .find(|r| **r == "application/json" && takes(r))
                .or_else(|| recorded.iter().find(takes))
                .copied()
        })
    }

    /// Whether the client asks for a Table anywhere: then a person reads the answer.
    pub fn wants_table(&self) -> bool {
        self.entries.iter().any(|m| m.param("as") == Some("Table"))
    }

    /// Whether the client asks for anything that kube-apiserver converts to without saying so in `Content-Type`.
    pub fn wants_conversion(&self) -> bool {
        self.entries.iter().any(|m| m.param("as").is_some())
    }

    /// The media type that the client would like best; empty where it takes nothing.
    pub fn first(&self) -> &str {
        self.entries.first().map_or("", |m| &m.essence)
    }
}

fn matches(wanted: &MediaType, have: &MediaType) -> bool {
    let is_named = wanted.essence == have.essence;
    let essence = match wanted.essence.as_str() {
        _ if !is_named && have.essence == "application/vnd.kubernetes.protobuf" => false,
        "*/*" => true,
        e => is_named || e.strip_suffix("/*").is_some_and(|t| have.essence.split('/').next() == Some(t)),
    };
    essence && wanted.params == have.params
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "application/json;as=Table;g=meta.k8s.io;v=v1";
    const PROTO: &str = "application/vnd.kubernetes.protobuf";
    const JSON: &str = "application/json";

    #[test]
    fn a_body_says_what_it_is() {
        let rep = |ct, t| representation(ct, t).expect("a media type");
        assert_eq!(rep("application/json", Some(("v1", "PodList"))), JSON);
        assert_eq!(rep("application/json; charset=utf-8", None), JSON);
        assert_eq!(rep("application/json", Some(("meta.k8s.io/v1", "Table"))), TABLE);
        assert_eq!(
            rep("application/json", Some(("meta.k8s.io/v1", "PartialObjectMetadataList"))),
            rep("application/json;stream=watch", Some(("meta.k8s.io/v1", "PartialObjectMetadata")))
        );
        assert_eq!(rep("application/vnd.kubernetes.protobuf;stream=watch", None), PROTO);
        assert_eq!(
            rep("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", None),
            "application/json;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io;v=v2"
        );
        assert_eq!(representation("nonsense", None), None);
    }

    #[test]
    fn accept_is_walked_in_the_clients_order() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let cases: [(Option<&str>, &[&str], Option<&str>); 12] = [
            (Some(kubectl), &[JSON, TABLE], Some(TABLE)),
            (Some(kubectl), &[JSON], Some(JSON)),
            (Some("application/vnd.kubernetes.protobuf,application/json"), &[JSON, PROTO], Some(PROTO)),
            (Some("application/json;q=0.5, application/vnd.kubernetes.protobuf"), &[JSON, PROTO], Some(PROTO)),
            (Some("application/json"), &[TABLE], None),
            (Some("application/json;q=0"), &[JSON], None),
            (Some("*/*"), &[PROTO, TABLE, JSON], Some(JSON)),
            (Some("*/*"), &[TABLE], None),
            (Some("application/*"), &[PROTO], None),
            (Some("application/json, */*"), &[PROTO], None),
            (Some("application/*"), &[PROTO, "application/yaml"], Some("application/yaml")),
            (None, &[JSON], Some(JSON)),
        ];
        for (accept, recorded, want) in cases {
            assert_eq!(Accept::parse(accept).choose(recorded), want, "{accept:?} of {recorded:?}");
        }
    }
}
