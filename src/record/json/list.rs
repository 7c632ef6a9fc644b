//! A list, split into its objects while it streams. What is not an object is the envelope, kept as it came.

use super::Envelope;
use super::gathering::Gathering;
use super::object::blank;
use super::token::{Token, Tokenizer};
use crate::record::{Item, Malformed, TypeMeta, flags};

/// Splits one list. However its bytes are cut into pieces, the same comes out.
#[derive(Debug)]
pub(in crate::record) struct ListReader {
    tokens: Tokenizer,
    max_object: usize,
    /// All before the first object, the opening bracket included; then all after the last.
    head: Vec<u8>,
    tail: Vec<u8>,
    place: Place,
    /// The object under way, and what is known of it.
    item: Vec<u8>,
    gathering: Gathering,
    member: Member,
    type_meta: TypeMeta,
    /// Whether the first object names its own type; `None`: there was none.
    items_typed: Option<bool>,
    rows: bool,
    /// Where in the head `null` stands in the place of the objects.
    null_at: Option<usize>,
}

/// Where in the list it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the objects.
    Head,
    /// Between objects.
    Between,
    /// In an object.
    Item,
    /// After the objects.
    Tail,
}

/// The member of the list that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Kind,
    ApiVersion,
    Items,
    Rows,
    Other,
}

impl ListReader {
    /// A reader of one list whose objects are at most `max_object` bytes long.
    pub(in crate::record) fn new(max_object: usize) -> ListReader {
        ListReader {
            tokens: Tokenizer::new(),
            max_object,
            head: Vec::new(),
            tail: Vec::new(),
            place: Place::Head,
            item: Vec::new(),
            gathering: Gathering::of_object(),
            member: Member::Other,
            type_meta: TypeMeta::default(),
            items_typed: None,
            rows: false,
            null_at: None,
        }
    }

    /// Takes the next bytes, and calls `each` with every object that is whole: with the list's type as far as it is known
    /// (lists of custom resources come with sorted members, their kind after the items), and the object.
    ///
    /// # Errors
    /// The body is no list, or one that cannot be recorded. What was handed out before is then not to be trusted.
    pub(in crate::record) fn feed(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(&TypeMeta, Item<'_>),
    ) -> Result<(), Malformed> {
        let (mut at, mut kept) = (0, 0);
        loop {
            if self.tokens.is_done() {
                blank(&bytes[at..])?;
                break;
            }
            let fresh = self.tokens.is_fresh();
            let depth_before = self.tokens.depth();
            let Some(token) = self.tokens.next(bytes, &mut at)? else {
                if self.tokens.is_done() {
                    continue;
                }
                break;
            };
            if fresh && token != Token::Open(b'{') {
                return Err(Malformed::NotAList);
            }
            match self.place {
                Place::Head | Place::Tail => {
                    let begins = outside(self.place, &mut self.member, &mut self.type_meta, token, depth_before)?;
                    match begins {
                        Some(Begins::Null) => self.null_at = Some(self.head.len() + at - 1 - kept),
                        Some(begins) => {
                            self.rows = begins == Begins::Rows;
                            self.place = Place::Between;
                            self.head.extend_from_slice(&bytes[kept..at]);
                            kept = at;
                        }
                        None => {}
                    }
                }
                Place::Between => match token {
                    Token::Open(b'{') => {
                        self.place = Place::Item;
                        self.item.clear();
                        self.gathering = if self.rows { Gathering::of_row() } else { Gathering::of_object() };
                        kept = at - 1;
                    }
                    Token::Close => {
                        self.place = Place::Tail;
                        kept = at - 1;
                    }
                    _ => return Err(Malformed::NotAList),
                },
                Place::Item => {
                    let depth = (depth_before + usize::from(matches!(token, Token::Open(_))))
                        - usize::from(token == Token::Close);
                    if token == Token::Close && depth == 2 {
                        self.item.extend_from_slice(&bytes[kept..at]);
                        kept = at;
                        self.hand_out(each)?;
                    } else {
                        let written = self.item.len() + (at - kept);
                        let key_at =
                            if let Token::Key(key) = token { written.saturating_sub(key.len() + 2) } else { 0 };
                        self.gathering.token(token, depth - 2, key_at)?;
                    }
                }
            }
        }
        self.keep_rest(bytes, kept)
    }

    fn hand_out(&mut self, each: &mut dyn FnMut(&TypeMeta, Item<'_>)) -> Result<(), Malformed> {
        self.place = Place::Between;
        if self.item.len() > self.max_object {
            return Err(Malformed::TooLarge);
        }
        let facts = std::mem::take(&mut self.gathering).end()?;
        if facts.name.is_empty() {
            return Err(Malformed::NoName);
        }
        self.items_typed.get_or_insert(!facts.type_meta.kind.is_empty());
        let flags = if self.rows { 0 } else { flags::of(&facts) };
        each(&self.type_meta, Item { facts: &facts, bytes: &self.item, flags });
        Ok(())
    }

    fn keep_rest(&mut self, bytes: &[u8], kept: usize) -> Result<(), Malformed> {
        let into = match self.place {
            Place::Head => &mut self.head,
            Place::Item => &mut self.item,
            Place::Tail => &mut self.tail,
            // Commas and blanks between objects are made anew.
            Place::Between => return Ok(()),
        };
        into.extend_from_slice(&bytes[kept..]);
        if into.len() > self.max_object { Err(Malformed::TooLarge) } else { Ok(()) }
    }

    /// How many of the bytes taken, from the last back, are of an object that is not whole yet.
    pub(in crate::record) fn under_way(&self) -> usize {
        if self.place == Place::Item { self.item.len() } else { 0 }
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It was no list, or not a whole one.
    pub(in crate::record) fn finish(mut self) -> Result<Envelope, Malformed> {
        if !self.tokens.is_done() {
            return Err(Malformed::Truncated);
        }
        if let (Place::Head, Some(null)) = (self.place, self.null_at)
            && self.head[null..].starts_with(b"null")
        {
            self.tail = [b"]", &self.head[null + 4..]].concat();
            self.head.truncate(null);
            self.head.push(b'[');
            self.place = Place::Tail;
        }
        if self.place != Place::Tail || self.type_meta.kind.is_empty() || self.type_meta.api_version.is_empty() {
            return Err(Malformed::NotAList);
        }
        Envelope::json(self.head, self.tail, self.type_meta, self.items_typed)
    }
}

/// How the objects begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    Items,
    Rows,
    /// There are none, and `null` stands in their place.
    Null,
}

/// Takes a token that is not within the objects; tells when they begin.
fn outside(
    place: Place,
    member: &mut Member,
    type_meta: &mut TypeMeta,
    token: Token<'_>,
    depth: usize,
) -> Result<Option<Begins>, Malformed> {
    if depth != 1 {
        return Ok(None);
    }
    match token {
        Token::Key(key) => {
            *member = match key {
                b"kind" => Member::Kind,
                b"apiVersion" => Member::ApiVersion,
                b"items" => Member::Items,
                b"rows" => Member::Rows,
                _ => Member::Other,
            };
            // A second list of objects would be the list for some readers and not for others.
            if matches!(*member, Member::Items | Member::Rows) && place == Place::Tail {
                return Err(Malformed::NotAList);
            }
        }
        Token::Text(text) if *member == Member::Kind => type_meta.kind = String::from_utf8_lossy(text).into_owned(),
        Token::Text(text) if *member == Member::ApiVersion => {
            type_meta.api_version = String::from_utf8_lossy(text).into_owned();
        }
        Token::Open(b'[') if *member == Member::Items => return Ok(Some(Begins::Items)),
        Token::Open(b'[') if *member == Member::Rows && type_meta.kind == "Table" => return Ok(Some(Begins::Rows)),
        // Go's nil slice.
        Token::Scalar(b'n') if *member == Member::Items => return Ok(Some(Begins::Null)),
        _ => {}
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came out: the objects as text, and the envelope.
    fn split(text: &str, cut: usize) -> Result<(Vec<String>, Envelope), Malformed> {
        let mut reader = ListReader::new(10_000);
        let mut items = Vec::new();
        let mut each = |_: &TypeMeta, item: Item<'_>| {
            let facts = item.facts;
            items.push(format!(
                "{}/{} {} {}",
                facts.namespace,
                facts.name,
                facts.resource_version,
                String::from_utf8_lossy(item.bytes)
            ));
        };
        reader.feed(&text.as_bytes()[..cut], &mut each)?;
        reader.feed(&text.as_bytes()[cut..], &mut each)?;
        Ok((items, reader.finish()?))
    }

    const PODS: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"c","remainingItemCount":3},"items":[{"metadata":{"name":"a","namespace":"x","uid":"1","resourceVersion":"5"},"spec":{"q":"]},{\"\\"}},{"metadata":{"name":"b","namespace":"x","uid":"2","resourceVersion":"6","labels":{"name":"no"}}}]}"#;

    #[test]
    fn however_a_list_is_cut_the_same_comes_out() {
        let (whole, envelope) = split(PODS, 0).expect("a list");
        assert_eq!(whole.len(), 2);
        assert!(whole[0].starts_with("x/a 5 {\"metadata\":"), "{}", whole[0]);
        assert_eq!((envelope.resource_version(), envelope.continue_token()), ("9", Some("c")));
        for cut in 0..=PODS.len() {
            let (items, other) = split(PODS, cut).expect("a list");
            assert_eq!(items, whole, "cut at {cut}");
            assert_eq!(other, envelope, "cut at {cut}");
        }
    }

    #[test]
    fn a_truncated_list_is_never_whole() {
        for end in 0..PODS.len() {
            assert_eq!(split(&PODS[..end], end / 2).err(), Some(Malformed::Truncated), "at {end}");
        }
    }

    #[test]
    fn empty_lists_are_lists() {
        for items in ["[]", "[ ]", "null"] {
            let text = format!(
                r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"9"}},"items":{items}}}"#
            );
            for cut in 0..=text.len() {
                let (objects, envelope) = split(&text, cut).expect(&text);
                assert!(objects.is_empty());
                assert_eq!(envelope.resource_version(), "9");
            }
        }
    }

    #[test]
    fn the_kind_may_come_after_the_items() {
        let text = r#"{"apiVersion":"e/v1","items":[{"apiVersion":"e/v1","kind":"W","metadata":{"name":"a"}}],"kind":"WList","metadata":{"continue":"","resourceVersion":"9"}}"#;
        let (objects, envelope) = split(text, 40).expect("a list");
        assert_eq!(objects.len(), 1);
        assert_eq!((envelope.resource_version(), envelope.type_meta().kind.as_str()), ("9", "WList"));
        assert_eq!(envelope.continue_token(), None, "an empty token is none");
    }

    #[test]
    fn a_tables_rows_are_its_objects() {
        let text = r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"9"},"columnDefinitions":[{"name":"Name"}],"rows":[{"cells":["a"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"a","resourceVersion":"4"}}}]}"#;
        let (rows, _) = split(text, 100).expect("a table");
        assert_eq!(rows.len(), 1);
        assert!(rows[0].starts_with("/a 4 {\"cells\""), "{}", rows[0]);
        // A row of which nobody knows the object.
        assert_eq!(split(&text.replace("\"name\":\"a\",", ""), 0).err(), Some(Malformed::NoName));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (text, why) in [
            (r#"{"kind":"Status","apiVersion":"v1","metadata":{}}"#, Malformed::NotAList),
            (r"[1]", Malformed::NotAList),
            (r#"{"kind":"L","apiVersion":"v1","items":[{"metadata":{}}]}"#, Malformed::NoName),
            (r#"{"kind":"L","apiVersion":"v1","items":[1]}"#, Malformed::NotAList),
            (r#"{"kind":"L","apiVersion":"v1","items":[{"metadata":{"name":"a","name":"b"}}]}"#, Malformed::Ambiguous),
            // Found by fuzzing: what it lacked was put in, and what it had stood there twice.
            (
                r#"{"kind":"L","apiVersion":"v1","items":[{"apiVersion":"v1","metadata":{"name":"a"}}]}"#,
                Malformed::Ambiguous,
            ),
            (r#"{"kind":"L","apiVersion":"v1","items":[{"kind":null,"metadata":{"name":"a"}}]}"#, Malformed::Ambiguous),
            (r#"{"kind":"L","apiVersion":"v1","items":[],"items":[]}"#, Malformed::NotAList),
            (r#"{"kind":"L","apiVersion":"v1","items":[]}{}"#, Malformed::Trailing),
            (r#"{"kind":"L","apiVersion":"v1","items":[{"metadata":{"name":"a"]}}]}"#, Malformed::Syntax),
        ] {
            assert_eq!(split(text, 0).err(), Some(why), "{text}");
        }
        let long = format!(
            r#"{{"kind":"L","apiVersion":"v1","items":[{{"metadata":{{"name":"a"}},"x":"{}"}}]}}"#,
            "y".repeat(20_000)
        );
        assert_eq!(split(&long, 0).err(), Some(Malformed::TooLarge));
    }
}
