//! What is left of a list without its objects, and what is made of it again: lists, single objects, watch events.

use super::token::{self, Span};
use crate::record::compose::{ListWriter, Sizes, Style};
use crate::record::status::quote;
use crate::record::{EventKind, Malformed, StatusBody, TypeMeta};

/// The envelope of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::record) struct Envelope {
    /// All before the first object, with `[`.
    head: Vec<u8>,
    /// All after the last object, with `]`.
    tail: Vec<u8>,
    type_meta: TypeMeta,
    /// Whether the objects in the list name their own type; `None`: there was none to tell.
    items_typed: Option<bool>,
    resource_version: String,
    continue_token: Option<String>,
}

/// The version of what [`Envelope::encode`] writes.
pub(in crate::record) const FORMAT: u8 = 1;

impl Envelope {
    /// The envelope of a JSON list.
    pub(super) fn json(
        head: Vec<u8>,
        tail: Vec<u8>,
        type_meta: TypeMeta,
        items_typed: Option<bool>,
    ) -> Result<Envelope, Malformed> {
        let mut envelope =
            Envelope { head, tail, type_meta, items_typed, resource_version: String::new(), continue_token: None };
        let text = envelope.text();
        for member in Self::list_meta(&text)? {
            let value = serde_json::from_slice::<serde_json::Value>(&text[member.value.clone()]).unwrap_or_default();
            let value = value.as_str().unwrap_or_default();
            match member.key.as_slice() {
                b"resourceVersion" => value.clone_into(&mut envelope.resource_version),
                b"continue" if !value.is_empty() => envelope.continue_token = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// The envelope of a list of this type, as kube-apiserver writes it.
    ///
    /// # Errors
    /// None that could be.
    pub(in crate::record) fn of_type(
        type_meta: TypeMeta,
        items_typed: bool,
        resource_version: &str,
    ) -> Result<Envelope, Malformed> {
        let mut head = b"{\"kind\":".to_vec();
        quote(&type_meta.kind, &mut head);
        head.extend_from_slice(b",\"apiVersion\":");
        quote(&type_meta.api_version, &mut head);
        head.extend_from_slice(b",\"metadata\":{\"resourceVersion\":");
        quote(resource_version, &mut head);
        head.extend_from_slice(b"},\"items\":[");
        Envelope::json(head, b"]}\n".to_vec(), type_meta, Some(items_typed))
    }

    /// The list's own type.
    pub(in crate::record) fn type_meta(&self) -> &TypeMeta {
        &self.type_meta
    }

    /// The list's resourceVersion; empty where it has none.
    pub(in crate::record) fn resource_version(&self) -> &str {
        &self.resource_version
    }

    /// `metadata.continue`: more of the list is to be had.
    pub(in crate::record) fn continue_token(&self) -> Option<&str> {
        self.continue_token.as_deref()
    }

    fn text(&self) -> Vec<u8> {
        [self.head.as_slice(), self.tail.as_slice()].concat()
    }

    /// The members of the list's `metadata`, in the coordinates of `text`.
    fn list_meta(text: &[u8]) -> Result<Vec<Span>, Malformed> {
        let Some(metadata) = token::members(text)?.into_iter().find(|m| m.key == b"metadata") else {
            return Ok(Vec::new());
        };
        let start = metadata.value.start;
        let shift = |m: Span| Span { at: m.at + start, value: m.value.start + start..m.value.end + start, ..m };
        Ok(token::members(&text[metadata.value])?.into_iter().map(shift).collect())
    }

    fn is_table(&self) -> bool {
        self.type_meta.kind == "Table"
    }

    /// The type of the list's objects: kube-apiserver names every list after its items.
    fn item_type(&self) -> (&str, &str) {
        (&self.type_meta.api_version, self.type_meta.kind.strip_suffix("List").unwrap_or(&self.type_meta.kind))
    }

    /// The envelope as bytes to keep: a format byte, then four strings, each after its length as four bytes, big end first.
    pub(in crate::record) fn encode(&self) -> Vec<u8> {
        let typed = match self.items_typed {
            None => b'?',
            Some(false) => b'b',
            Some(true) => b't',
        };
        let mut out = vec![FORMAT, typed];
        for part in
            [self.head.as_slice(), &self.tail, self.type_meta.api_version.as_bytes(), self.type_meta.kind.as_bytes()]
        {
            out.extend_from_slice(&(part.len() as u32).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    /// Reads what [`Envelope::encode`] wrote; `None` for anything else.
    pub(in crate::record) fn decode(bytes: &[u8]) -> Option<Envelope> {
        let [FORMAT, typed, rest @ ..] = bytes else { return None };
        let items_typed = match typed {
            b'?' => None,
            b'b' => Some(false),
            b't' => Some(true),
            _ => return None,
        };
        let mut rest = rest;
        let mut part = || {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (part, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = after;
            Some(part.to_vec())
        };
        let (head, tail) = (part()?, part()?);
        let type_meta =
            TypeMeta { api_version: String::from_utf8(part()?).ok()?, kind: String::from_utf8(part()?).ok()? };
        if !rest.is_empty() {
            return None;
        }
        Envelope::json(head, tail, type_meta, items_typed).ok()
    }

    /// Begins to count how long the list will be.
    pub(in crate::record) fn sizes(&self) -> Sizes {
        Sizes::new(self.item_style())
    }

    fn item_style(&self) -> Style {
        match self.items_typed {
            _ if self.is_table() => Style::AsTheyAre,
            Some(true) => Style::Typed(self.type_text()),
            _ => Style::Bare,
        }
    }

    /// `"kind":…,"apiVersion":…,`, as a typed object begins.
    fn type_text(&self) -> Vec<u8> {
        let (api_version, kind) = self.item_type();
        let mut text = b"\"kind\":".to_vec();
        quote(kind, &mut text);
        text.extend_from_slice(b",\"apiVersion\":");
        quote(api_version, &mut text);
        text.push(b',');
        text
    }

    /// The list at a resourceVersion, to be written piece by piece; as it was, but for `continue` and
    /// `remainingItemCount`, which are left out: a recalled list is whole.
    pub(in crate::record) fn list(&self, resource_version: &str, sizes: Sizes) -> ListWriter {
        let (head, tail) = self.at(resource_version);
        ListWriter::new(head, tail, sizes)
    }

    /// Head and tail with the list's metadata changed.
    fn at(&self, resource_version: &str) -> (Vec<u8>, Vec<u8>) {
        let text = self.text();
        let metadata = Self::list_meta(&text).unwrap_or_default();
        let mut edits: Vec<(std::ops::Range<usize>, Vec<u8>)> = Vec::new();
        // An empty `continue` says nothing, and lists of custom resources always have one.
        let is_dropped = |m: &Span| match m.key.as_slice() {
            b"continue" => text[m.value.clone()] != *b"\"\"",
            key => key == b"remainingItemCount",
        };
        for (i, member) in metadata.iter().enumerate() {
            match member.key.as_slice() {
                b"resourceVersion" => {
                    let mut value = Vec::new();
                    quote(resource_version, &mut value);
                    edits.push((member.value.clone(), value));
                }
                _ if is_dropped(member) => {
                    // With the comma before it, or, where it is the first that stays, with the one after it.
                    let before = metadata[..i].iter().rev().find(|m| !is_dropped(m)).map(|m| m.value.end);
                    let after = metadata.get(i + 1).map(|m| m.at);
                    let range = match (before, after) {
                        (Some(_), _) => metadata[i - 1].value.end..member.value.end,
                        (None, Some(after)) => member.at..after,
                        (None, None) => member.at..member.value.end,
                    };
                    edits.push((range, Vec::new()));
                }
                _ => {}
            }
        }
        let (mut text, mut border) = (text, self.head.len());
        for (range, with) in edits.into_iter().rev() {
            if range.end <= border {
                border = border + with.len() - range.len();
            }
            text.splice(range, with);
        }
        let tail = text.split_off(border);
        (text, tail)
    }

    /// The labels of one of its objects.
    ///
    /// # Errors
    /// It is no object, or its labels are not text.
    pub(in crate::record) fn labels(&self, object: &[u8]) -> Result<Vec<(String, String)>, Malformed> {
        if !self.is_table() {
            return super::labels(object);
        }
        let shown = token::members(object)?.into_iter().find(|m| m.key == b"object");
        shown.map_or(Err(Malformed::NoName), |shown| super::labels(&object[shown.value]))
    }

    /// One object as the answer to a get; kube-apiserver ends each with a newline.
    pub(in crate::record) fn object(&self, bytes: &[u8], flags: u32, resource_version: &str, out: &mut Vec<u8>) {
        if self.is_table() {
            let (head, tail) = self.at(resource_version);
            out.extend_from_slice(&head);
            out.extend_from_slice(bytes);
            out.extend_from_slice(&tail);
        } else {
            Style::Typed(self.type_text()).write(bytes, flags, out);
            out.push(b'\n');
        }
    }

    /// One event of a watch. `first`: nothing was sent before it; a Table then names its columns, later ones do not
    /// (`staging/src/k8s.io/apiserver/pkg/endpoints/handlers/response.go`, `doTransformObject`).
    pub(in crate::record) fn event(
        &self,
        kind: EventKind,
        object: &[u8],
        flags: u32,
        resource_version: &str,
        first: bool,
        out: &mut Vec<u8>,
    ) {
        begin_event(kind, out);
        if self.is_table() {
            self.table(resource_version, first, object, out);
        } else {
            Style::Typed(self.type_text()).write(object, flags, out);
        }
        out.extend_from_slice(b"}\n");
    }

    /// A BOOKMARK. `initial_events_end`: it says that the initial events were all.
    pub(in crate::record) fn bookmark(&self, resource_version: &str, initial_events_end: bool, out: &mut Vec<u8>) {
        begin_event(EventKind::Bookmark, out);
        if self.is_table() {
            self.table(resource_version, false, b"", out);
        } else {
            out.push(b'{');
            out.extend_from_slice(&self.type_text());
            out.extend_from_slice(b"\"metadata\":{\"resourceVersion\":");
            quote(resource_version, out);
            out.extend_from_slice(b",\"creationTimestamp\":null");
            if initial_events_end {
                out.extend_from_slice(b",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}");
            }
            out.extend_from_slice(b"}}");
        }
        out.extend_from_slice(b"}\n");
    }

    /// A Table of at most one row, as an event has it.
    fn table(&self, resource_version: &str, columns: bool, row: &[u8], out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.type_text());
        out.extend_from_slice(b"\"metadata\":{\"resourceVersion\":");
        quote(resource_version, out);
        out.extend_from_slice(b"},\"columnDefinitions\":");
        let text = self.text();
        let found = token::members(&text).unwrap_or_default().into_iter().find(|m| m.key == b"columnDefinitions");
        match found.filter(|_| columns) {
            Some(definitions) => out.extend_from_slice(&text[definitions.value]),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"rows\":[");
        out.extend_from_slice(row);
        out.extend_from_slice(b"]}");
    }
}

/// Appends an ERROR event.
pub(in crate::record) fn put_error(status: &StatusBody, out: &mut Vec<u8>) {
    begin_event(EventKind::Error, out);
    out.extend_from_slice(&status.json());
    out.extend_from_slice(b"}\n");
}

fn begin_event(kind: EventKind, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.name().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

#[cfg(test)]
mod tests {
    use super::super::{ListReader, ObjectReader};
    use super::*;
    use crate::record::{Item, flags};

    type Kept = Vec<(Vec<u8>, u32)>;

    fn read(text: &str) -> (Envelope, Kept) {
        let mut reader = ListReader::new(100_000);
        let mut objects = Vec::new();
        reader
            .feed(text.as_bytes(), &mut |_: &TypeMeta, item: Item<'_>| objects.push((item.bytes.to_vec(), item.flags)))
            .expect(text);
        let envelope = reader.finish().expect(text);
        assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Some(&envelope), "what is kept comes back");
        (envelope, objects)
    }

    fn write(envelope: &Envelope, version: &str, objects: &Kept) -> String {
        let mut sizes = envelope.sizes();
        objects.iter().for_each(|(bytes, flags)| sizes.add(bytes.len() as u64, *flags));
        let mut list = envelope.list(version, sizes);
        let mut out = Vec::new();
        list.head(&mut out);
        objects.iter().for_each(|(bytes, flags)| list.object(bytes, *flags, &mut out));
        list.tail(&mut out);
        assert_eq!(out.len() as u64, list.length(), "the length is told beforehand");
        String::from_utf8(out).expect("text")
    }

    const TYPED: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b","uid":"2","resourceVersion":"6"}}"#;

    fn typed() -> (Vec<u8>, u32) {
        let mut reader = ObjectReader::new();
        reader.feed(TYPED.as_bytes()).expect("an object");
        (TYPED.as_bytes().to_vec(), flags::of(&reader.into_facts().expect("typed")))
    }

    #[test]
    fn a_list_comes_back_as_it_was() {
        for text in [
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"},"z":1}]}"#,
            r#"{"apiVersion":"e/v1","kind":"WList","metadata":{"resourceVersion":"9"},"items":[{"apiVersion":"e/v1","kind":"W","metadata":{"name":"a"}}],"x":{"y":[1,2]}}"#,
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}"#,
            r#"{"apiVersion":"e/v1","items":[],"kind":"WList","metadata":{"continue":"","resourceVersion":"9"}}"#,
            "{\n  \"kind\": \"PodList\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"resourceVersion\": \"9\"\n  },\n  \"items\": []\n}\n",
        ] {
            let (envelope, objects) = read(text);
            assert_eq!(write(&envelope, "9", &objects), text);
            assert_eq!(write(&envelope, "10", &objects), text.replace("\"9\"", "\"10\""));
        }
    }

    #[test]
    fn what_speaks_of_pages_is_left_out() {
        for metadata in [
            r#""resourceVersion":"9","continue":"c","remainingItemCount":3"#,
            r#""continue":"c","remainingItemCount":3,"resourceVersion":"9""#,
            r#""continue":"c","resourceVersion":"9","remainingItemCount":3"#,
        ] {
            let (envelope, objects) =
                read(&format!(r#"{{"kind":"L","apiVersion":"v1","metadata":{{{metadata}}},"items":[]}}"#));
            assert_eq!(
                write(&envelope, "9", &objects),
                r#"{"kind":"L","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[]}"#
            );
        }
        let (envelope, objects) =
            read(r#"{"kind":"L","apiVersion":"v1","metadata":{"continue":"c","remainingItemCount":3},"items":[]}"#);
        assert_eq!(write(&envelope, "9", &objects), r#"{"kind":"L","apiVersion":"v1","metadata":{},"items":[]}"#);
    }

    #[test]
    fn an_object_of_an_event_is_bare_in_a_typed_list_and_named_alone() {
        let (envelope, mut objects) = read(
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a"}}]}"#,
        );
        objects.push(typed());
        let list = write(&envelope, "9", &objects);
        assert!(
            list.ends_with(
                r#""items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b","uid":"2","resourceVersion":"6"}}]}"#
            ),
            "{list}"
        );
        let mut alone = Vec::new();
        envelope.object(&objects[0].0, objects[0].1, "9", &mut alone);
        let alone_a = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#;
        assert_eq!(String::from_utf8_lossy(&alone), format!("{alone_a}\n"));
        alone.clear();
        envelope.object(&objects[1].0, objects[1].1, "9", &mut alone);
        assert_eq!(String::from_utf8_lossy(&alone), format!("{TYPED}\n"));
    }

    #[test]
    fn events_are_lines() {
        let (envelope, objects) = read(
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[{"metadata":{"name":"a"}}]}"#,
        );
        let mut out = Vec::new();
        envelope.event(EventKind::Added, &objects[0].0, objects[0].1, "5", true, &mut out);
        envelope.bookmark("9", true, &mut out);
        let want = concat!(
            r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}}"#,
            "\n",
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9","creationTimestamp":null,"annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
            "\n",
        );
        assert_eq!(String::from_utf8_lossy(&out), want);
    }

    #[test]
    fn only_a_tables_first_event_names_the_columns() {
        let (envelope, rows) = read(
            r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"9"},"columnDefinitions":[{"name":"N"}],"rows":[{"cells":["a"],"object":{"kind":"PartialObjectMetadata","metadata":{"name":"a"}}}]}"#,
        );
        let mut out = Vec::new();
        envelope.event(EventKind::Added, &rows[0].0, rows[0].1, "5", true, &mut out);
        envelope.event(EventKind::Modified, &rows[0].0, rows[0].1, "6", false, &mut out);
        let text = String::from_utf8_lossy(&out);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with(r#"{"type":"ADDED","object":{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"5"},"columnDefinitions":[{"name":"N"}],"rows":[{"cells""#), "{text}");
        assert!(lines[1].contains(r#""columnDefinitions":null,"rows":[{"cells""#), "{text}");
        assert!(lines.iter().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()));
    }

    #[test]
    fn damage_is_nothing() {
        let (envelope, _) = read(r#"{"kind":"L","apiVersion":"v1","metadata":{},"items":[]}"#);
        let whole = envelope.encode();
        for cut in 0..whole.len() {
            assert_eq!(Envelope::decode(&whole[..cut]), None);
        }
        assert_eq!(Envelope::decode(&[whole.as_slice(), b"x"].concat()), None);
    }
}
