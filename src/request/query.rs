//! Query parameters: which select what is answered, and which only say how.

use super::NotUnderstood;
use super::path::{encode, percent_decode};

/// Parameters that never select a view (design.md, "Which query parameters select the view").
const NOT_SELECTING: [&str; 10] = [
    "watch",
    "resourceVersion",
    "resourceVersionMatch",
    "limit",
    "continue",
    "timeout",
    "timeoutSeconds",
    "allowWatchBookmarks",
    "sendInitialEvents",
    "pretty",
];

/// The decoded parameters, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(raw: &str) -> Result<Query, NotUnderstood> {
        let mut pairs = Vec::new();
        for part in raw.split('&').filter(|p| !p.is_empty()) {
            // Go drops such a parameter without a word (`net/url`, `parseQuery`): it would answer another question.
            if part.contains(';') {
                return Err(NotUnderstood(format!("the query parameter {part:?} holds ';'; send it percent-encoded")));
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let both = percent_decode(name.as_bytes(), true).zip(percent_decode(value.as_bytes(), true));
            pairs.push(both.ok_or_else(|| {
                NotUnderstood(format!("the query parameter {part:?} is not valid percent-encoded UTF-8"))
            })?);
        }
        Ok(Query { pairs })
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A parameter's value as Go's `strconv.ParseBool` and Kubernetes' query conversion read it: present and empty is
    /// true, `0` and `false` are false, anything else is true
    /// (`staging/src/k8s.io/apimachinery/pkg/runtime/conversion.go`, `Convert_Slice_string_To_bool`).
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !(v == "0" || v.eq_ignore_ascii_case("false")))
    }

    /// Whether the answer is to be a stream of events.
    pub fn is_watch(&self) -> bool {
        self.flag("watch")
    }

    /// The resourceVersion asked for; `None`: none, or empty, which means the same.
    pub fn resource_version(&self) -> Option<&str> {
        self.get("resourceVersion").filter(|v| !v.is_empty())
    }

    /// The label selector; `None`: everything.
    pub fn label_selector(&self) -> Option<&str> {
        self.get("labelSelector").filter(|v| !v.is_empty())
    }

    /// The field selector; `None`: everything.
    pub fn field_selector(&self) -> Option<&str> {
        self.get("fieldSelector").filter(|v| !v.is_empty())
    }

    /// The object name that the field selector's `metadata.name=NAME` requirement demands, if it is all the selector says.
    pub fn only_name(&self) -> Option<&str> {
        let selector = self.field_selector()?;
        let name = selector.strip_prefix("metadata.name=")?;
        let name = name.strip_prefix('=').unwrap_or(name);
        (!name.contains([',', '=', '!'])).then_some(name)
    }

    /// The canonical form of the parameters that select a view; empty when nothing but the path selects it.
    pub fn selecting(&self) -> String {
        let mut parts: Vec<(&str, String)> = Vec::new();
        for (name, value) in &self.pairs {
            match name.as_str() {
                n if NOT_SELECTING.contains(&n) => {}
                "labelSelector" | "fieldSelector" if value.is_empty() => {}
                "labelSelector" | "fieldSelector" => parts.push((name, requirements(value).join(","))),
                _ => parts.push((name, value.clone())),
            }
        }
        parts.sort();
        let mut out = String::new();
        for (name, value) in parts {
            if !out.is_empty() {
                out.push('&');
            }
            encode(name, &mut out);
            out.push('=');
            encode(&value, &mut out);
        }
        out
    }

    /// What beside label and field selector selects the view, sorted.
    pub(super) fn other_selecting(&self) -> Vec<&(String, String)> {
        let selects = |n: &str| !NOT_SELECTING.contains(&n) && n != "labelSelector" && n != "fieldSelector";
        let mut others: Vec<_> = self.pairs.iter().filter(|(n, _)| selects(n)).collect();
        others.sort();
        others
    }

    pub(super) fn require_name(&mut self, name: &str) {
        let requirement = format!("metadata.name={name}");
        match self.pairs.iter_mut().find(|(n, _)| n == "fieldSelector") {
            Some((_, value)) if value.is_empty() => *value = requirement,
            Some((_, value)) => *value = format!("{value},{requirement}"),
            None => self.pairs.push(("fieldSelector".to_owned(), requirement)),
        }
    }
}

/// A selector's requirements, sorted, with blanks folded and `==` written `=`. Commas inside the parentheses of
/// `in (a,b)` part values, not requirements; those values are sorted too.
pub(super) fn requirements(selector: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0_i32, 0);
    for (i, b) in selector.bytes().enumerate() {
        match b {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth <= 0 => {
                found.push(requirement(&selector[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    found.push(requirement(&selector[start..]));
    found.retain(|r| !r.is_empty());
    found.sort();
    found.dedup();
    found
}

fn requirement(text: &str) -> String {
    let (left, values) = match (text.find('('), text.rfind(')')) {
        (Some(open), Some(close)) if open < close => (&text[..open], Some(&text[open + 1..close])),
        _ => (text, None),
    };
    let mut out = left.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(values) = values {
        let mut values: Vec<&str> = values.split(',').map(str::trim).collect();
        values.sort_unstable();
        out = format!("{out} ({})", values.join(","));
    } else if let Some((key, value)) = out.split_once("==") {
        out = format!("{}={}", key.trim(), value.trim());
    } else if let Some((key, value)) = out.split_once("!=") {
        out = format!("{}!={}", key.trim(), value.trim());
    } else if let Some((key, value)) = out.split_once('=') {
        out = format!("{}={}", key.trim(), value.trim());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selecting(raw: &str) -> String {
        Query::parse(raw).expect("parsed").selecting()
    }

    #[test]
    fn the_same_question_is_the_same_view() {
        let cases = [
            ("limit=500&resourceVersion=0", ""),
            ("watch=true&resourceVersion=5&timeoutSeconds=400&allowWatchBookmarks=true", ""),
            ("labelSelector=", ""),
            ("labelSelector=b%3D1%2Ca%3D%3D2", "labelSelector=a%3D2%2Cb%3D1"),
            ("labelSelector=a+in+(y,x),!b", "labelSelector=%21b%2Ca%20in%20%28x%2Cy%29"),
            ("fieldSelector=spec.clusterIP%21%3DNone", "fieldSelector=spec.clusterIP%21%3DNone"),
            ("unknown=1&labelSelector=a", "labelSelector=a&unknown=1"),
            ("includeObject=Object", "includeObject=Object"),
        ];
        for (raw, canonical) in cases {
            assert_eq!(selecting(raw), canonical, "{raw}");
        }
        assert_eq!(selecting("labelSelector=a,b"), selecting("labelSelector=b%2C%20a&pretty=true"));
        assert_ne!(selecting("labelSelector=a"), selecting("fieldSelector=a"));
    }

    #[test]
    fn booleans_are_read_as_kubernetes_reads_them() {
        for (raw, want) in [
            ("watch", true),
            ("watch=", true),
            ("watch=1", true),
            ("watch=true", true),
            ("watch=0", false),
            ("watch=False", false),
            ("", false),
        ] {
            assert_eq!(Query::parse(raw).expect("parsed").is_watch(), want, "{raw}");
        }
    }

    #[test]
    fn a_selector_of_one_name() {
        let name = |raw| Query::parse(raw).expect("parsed").only_name().map(str::to_owned);
        assert_eq!(name("fieldSelector=metadata.name%3Da").as_deref(), Some("a"));
        assert_eq!(name("fieldSelector=metadata.name%3D%3Da").as_deref(), Some("a"));
        assert_eq!(name("fieldSelector=metadata.name%3Da%2Cspec.x%3D1"), None);
        assert_eq!(name("fieldSelector=metadata.name%21%3Da"), None);
    }
}
