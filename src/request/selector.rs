//! Selectors: what a narrower view leaves out of a wider one, as far as an object's metadata can tell. What cannot be
//! told from metadata alone (`spec.nodeName=…`) is refused: a wrong list is worse than none.

use super::query::Query;

/// What of a wider view belongs to a narrower one; by default all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    namespace: Option<String>,
    fields: Vec<FieldRequirement>,
    labels: Vec<LabelRequirement>,
}

/// A requirement on `metadata.name` or `metadata.namespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldRequirement {
    of_name: bool,
    equal: bool,
    value: String,
}

/// A requirement on a label (`staging/src/k8s.io/apimachinery/pkg/labels/selector.go`, `Requirement.Matches`).
#[derive(Debug, Clone, PartialEq, Eq)]
enum LabelRequirement {
    /// It is there, with one of these values.
    In(String, Vec<String>),
    /// It is not there, or has none of these values.
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Selection {
    /// What selects `query`, within `namespace` if there is one, out of a view whose selecting query is `wider`. `None`:
    /// the view is not wider, or metadata cannot tell.
    pub fn out_of(wider: &str, query: &Query, namespace: Option<&str>) -> Option<Selection> {
        let wider = Query::parse(wider).ok()?;
        if query.other_selecting() != wider.other_selecting() {
            return None;
        }
        let beyond = |asked: Option<&str>, known: Option<&str>| {
            let (mut asked, known) = (requirements(asked), requirements(known));
            if !known.iter().all(|k| asked.contains(k)) {
                return None;
            }
            asked.retain(|a| !known.contains(a));
            Some(asked)
        };
        let fields = beyond(query.field_selector(), wider.field_selector())?;
        let labels = beyond(query.label_selector(), wider.label_selector())?;
        Some(Selection {
            namespace: namespace.map(str::to_owned),
            fields: fields.iter().map(|f| FieldRequirement::parse(f)).collect::<Option<_>>()?,
            labels: labels.iter().map(|l| LabelRequirement::parse(l)).collect::<Option<_>>()?,
        })
    }

    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        *self == Selection::default()
    }

    /// Whether an object's labels must be known.
    pub fn needs_labels(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Whether an object of this key (`namespace/name`, or `name`) may belong to it.
    pub fn admits_key(&self, key: &str) -> bool {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.fields.iter().all(|f| (f.value == if f.of_name { name } else { namespace }) == f.equal)
    }

    /// Whether an object with these labels may belong to it.
    pub fn admits_labels(&self, labels: &[(String, String)]) -> bool {
        let value = |key: &str| labels.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        self.labels.iter().all(|requirement| match requirement {
            LabelRequirement::In(key, values) => value(key).is_some_and(|v| values.contains(v)),
            LabelRequirement::NotIn(key, values) => value(key).is_none_or(|v| !values.contains(v)),
            LabelRequirement::Exists(key) => value(key).is_some(),
            LabelRequirement::DoesNotExist(key) => value(key).is_none(),
        })
    }
}

fn requirements(selector: Option<&str>) -> Vec<String> {
    selector.map(super::query::requirements).unwrap_or_default()
}

impl FieldRequirement {
    /// Reads one canonical requirement; `None`: not of metadata, or with escapes
    /// (`staging/src/k8s.io/apimachinery/pkg/fields/selector.go`, `UnescapeValue`), which no name needs.
    fn parse(text: &str) -> Option<FieldRequirement> {
        let (field, equal, value) = match text.split_once("!=") {
            Some((field, value)) => (field, false, value),
            None => text.split_once('=').map(|(field, value)| (field, true, value))?,
        };
        let of_name = match field {
            "metadata.name" => true,
            "metadata.namespace" => false,
            _ => return None,
        };
        let plain = !value.contains(['\\', '=', '!', '(', ')', '/']) && !value.contains(char::is_whitespace);
        plain.then(|| FieldRequirement { of_name, equal, value: value.to_owned() })
    }
}

impl LabelRequirement {
    /// Reads one canonical requirement; `None`: not of the kinds that are evaluated here (`k>1`), or none at all.
    fn parse(text: &str) -> Option<LabelRequirement> {
        use LabelRequirement::{DoesNotExist, Exists, In, NotIn};
        if let Some((left, values)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
            let values = values.split(',').map(|v| is_value(v).then(|| v.to_owned())).collect::<Option<_>>()?;
            return match left.split_whitespace().collect::<Vec<_>>().as_slice() {
                [key, "in"] => Some(In(as_key(key)?, values)),
                [key, "notin"] => Some(NotIn(as_key(key)?, values)),
                _ => None,
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return is_value(value).then_some(NotIn(as_key(key)?, vec![value.to_owned()]));
        }
        if let Some((key, value)) = text.split_once('=') {
            return is_value(value).then_some(In(as_key(key)?, vec![value.to_owned()]));
        }
        match text.strip_prefix('!') {
            Some(key) => as_key(key.trim()).map(DoesNotExist),
            None => as_key(text).map(Exists),
        }
    }
}

/// A label's key, if it can be one.
fn as_key(text: &str) -> Option<String> {
    let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    (fits && !text.is_empty()).then(|| text.to_owned())
}

fn is_value(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out_of(wider: &str, asked: &str, namespace: Option<&str>) -> Option<Selection> {
        Selection::out_of(wider, &Query::parse(asked).expect("parsed"), namespace)
    }

    fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn labels_are_judged_as_kubernetes_judges_them() {
        let web = labels(&[("app", "web"), ("tier", ""), ("x.io/a_b", "1.0")]);
        for (selector, want) in [
            ("app=web", true),
            ("app%3D%3Dweb", true),
            ("app=db", false),
            ("app!=web", false),
            ("app!=db", true),
            ("none!=db", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("!%20app", false),
            ("app+in+(db,web)", true),
            ("app%20in(db)", false),
            ("app notin (db, x)", true),
            ("none+notin+(db)", true),
            ("app+notin+(web)", false),
            ("tier=", true),
            ("tier+in+()", true),
            ("app=web,x.io/a_b=1.0,!none", true),
            ("app=web,none", false),
        ] {
            let selection = out_of("", &format!("labelSelector={selector}"), None).expect(selector);
            assert!(selection.needs_labels());
            assert_eq!(selection.admits_labels(&web), want, "{selector}");
        }
    }

    #[test]
    fn names_and_namespaces_are_told_from_the_key() {
        for (asked, namespace, key, want) in [
            ("fieldSelector=metadata.name%3Da", None, "x/a", true),
            ("fieldSelector=metadata.name%3D%3Da", None, "x/b", false),
            ("fieldSelector=metadata.name!%3Da", None, "x/b", true),
            ("fieldSelector=metadata.namespace%3Dx", None, "x/a", true),
            ("fieldSelector=metadata.namespace%3Dx,metadata.name!%3Da", None, "x/a", false),
            ("fieldSelector=metadata.namespace%3Dx", None, "a", false),
            ("fieldSelector=metadata.name%3Da", None, "a", true),
            ("", Some("x"), "x/a", true),
            ("", Some("x"), "xy/a", false),
        ] {
            let selection = out_of("", asked, namespace).expect(asked);
            assert!(!selection.needs_labels());
            assert_eq!(selection.admits_key(key), want, "{asked} {namespace:?} {key}");
        }
        assert!(out_of("", "limit=500&resourceVersion=0", None).expect("all").is_everything());
    }

    #[test]
    fn what_both_views_demand_needs_no_judging() {
        let node = "fieldSelector=spec.nodeName%3De1";
        assert_eq!(out_of(node, node, Some("x")), out_of("", "", Some("x")));
        assert_eq!(out_of("labelSelector=a%3Db", "labelSelector=c,a%3Db", None), out_of("", "labelSelector=c", None));
        assert!(out_of("includeObject=Object", "includeObject=Object", None).expect("the same").is_everything());
    }

    #[test]
    fn where_metadata_cannot_tell_nothing_is_told() {
        for (wider, asked) in [
            ("", "fieldSelector=spec.nodeName%3De1"),
            ("", "fieldSelector=status.phase!%3DRunning,metadata.name%3Da"),
            ("fieldSelector=spec.nodeName%3De1", ""),
            ("labelSelector=a", "labelSelector=b"),
            ("labelSelector=a%3Db", "labelSelector=a"),
            ("", "labelSelector=a>1"),
            ("", "labelSelector=a%3Db%3Dc"),
            ("", "labelSelector=a+in+b"),
            ("", "labelSelector=!"),
            ("", "fieldSelector=metadata.name"),
            ("", "fieldSelector=metadata.name%3Da%5C%2Cb"),
            ("", "unknown=1"),
            ("unknown=1", ""),
            ("includeObject=Object", "includeObject=None"),
        ] {
            assert_eq!(out_of(wider, asked, None), None, "{asked} out of {wider:?}");
        }
    }
}
