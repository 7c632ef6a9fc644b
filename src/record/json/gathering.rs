//! [`Facts`], gathered from the tokens of one object.

use super::token::Token;
use crate::record::{Facts, Malformed};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Member {
    #[default]
    Other,
    ApiVersion,
    Kind,
    Metadata,
    Name,
    Namespace,
    Uid,
    ResourceVersion,
    Annotations,
    InitialEventsEnd,
    /// Of a Table's row.
    Object,
}

/// Gathers [`Facts`] from the tokens of one object.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    pub(super) facts: Facts,
    /// The member that is open at each depth, the object's own first.
    path: [Member; 3],
    /// Which members have been met, a bit each.
    met: u16,
    /// How many members the object has had.
    members: usize,
    /// A Table's row: the object is its member `object`.
    is_row: bool,
    in_object: bool,
}

impl Gathering {
    pub(super) fn of_object() -> Gathering {
        Gathering::default()
    }

    pub(super) fn of_row() -> Gathering {
        Gathering { is_row: true, ..Gathering::default() }
    }

    /// Takes a token. `depth`: of containers that are open after it, the object's own braces being 1; `key_at`: where a
    /// key began, counted from the object's opening brace.
    ///
    /// # Errors
    /// A member that is read here comes twice, or under a name with escapes: then readers differ about what it says (Go
    /// merges objects and takes the last text, others the first), and kube-apiserver writes neither.
    pub(super) fn token(&mut self, token: Token<'_>, depth: usize, key_at: usize) -> Result<(), Malformed> {
        let mut depth = depth;
        if self.is_row {
            if depth == 1 {
                if let Token::Key(key) = token {
                    let member = |key: &[u8]| if key == b"object" { Member::Object } else { Member::Other };
                    self.in_object = self.meet(key, member)? == Member::Object;
                }
                return Ok(());
            }
            if depth == 0 || !self.in_object {
                return Ok(());
            }
            depth -= 1;
        }
        match token {
            Token::Key(key) if (1..=3).contains(&depth) => {
                if depth == 1 {
                    if self.members == 2 && self.facts.type_prefix == 2 {
                        self.facts.type_prefix = key_at - 1;
                    }
                    self.members += 1;
                }
                let path = self.path;
                let member = self.meet(key, |key| member(depth, path, key))?;
                if depth == 1 && !self.is_row {
                    // 1 and 2 while the members come as a typed object's do; not a length before the third.
                    let expected = [Member::Kind, Member::ApiVersion].get(self.members - 1) == Some(&member);
                    if expected && self.facts.type_prefix == self.members - 1 {
                        self.facts.type_prefix = self.members;
                    } else if self.members <= 2 {
                        self.facts.type_prefix = 0;
                    }
                }
                self.path[depth - 1] = member;
            }
            Token::Text(text) if (1..=3).contains(&depth) => self.text(depth, text),
            // What stands in an array has no name, and not that of the member before it.
            Token::Open(_) if (1..=3).contains(&depth) => self.path[depth - 1] = Member::Other,
            _ => {}
        }
        Ok(())
    }

    /// The object has ended.
    ///
    /// # Errors
    /// It names half of its type: kube-apiserver names both parts, or leaves them out together, and then they are put in.
    pub(super) fn end(mut self) -> Result<Facts, Malformed> {
        let names = |member: Member| self.met & (1 << member as u16) != 0;
        let typed = !self.facts.type_meta.kind.is_empty() && !self.facts.type_meta.api_version.is_empty();
        if !self.is_row && !typed && (names(Member::Kind) || names(Member::ApiVersion)) {
            return Err(Malformed::Ambiguous);
        }
        // It had no third member: nothing but its type.
        if self.facts.type_prefix <= 2 {
            self.facts.type_prefix = 0;
        }
        Ok(self.facts)
    }

    /// The member of this name, met now.
    fn meet(&mut self, key: &[u8], member: impl Fn(&[u8]) -> Member) -> Result<Member, Malformed> {
        let met = member(key);
        if met == Member::Other {
            let disguised = key.contains(&b'\\') && member(unescape(key).as_bytes()) != Member::Other;
            return if disguised { Err(Malformed::Ambiguous) } else { Ok(met) };
        }
        let bit = 1 << met as u16;
        if self.met & bit != 0 {
            return Err(Malformed::Ambiguous);
        }
        self.met |= bit;
        Ok(met)
    }

    fn text(&mut self, depth: usize, text: &[u8]) {
        let facts = &mut self.facts;
        match (depth, self.path[depth - 1]) {
            (1, Member::ApiVersion) => facts.type_meta.api_version = unescape(text),
            (1, Member::Kind) => facts.type_meta.kind = unescape(text),
            (2, Member::Name) => facts.name = unescape(text),
            (2, Member::Namespace) => facts.namespace = unescape(text),
            (2, Member::Uid) => facts.uid = unescape(text),
            (2, Member::ResourceVersion) => facts.resource_version = unescape(text),
            (3, Member::InitialEventsEnd) => facts.initial_events_end = text == b"true",
            _ => {}
        }
    }
}

fn member(depth: usize, path: [Member; 3], key: &[u8]) -> Member {
    match (depth, path[0], path[1], key) {
        (1, _, _, b"apiVersion") => Member::ApiVersion,
        (1, _, _, b"kind") => Member::Kind,
        (1, _, _, b"metadata") => Member::Metadata,
        (2, Member::Metadata, _, b"name") => Member::Name,
        (2, Member::Metadata, _, b"namespace") => Member::Namespace,
        (2, Member::Metadata, _, b"uid") => Member::Uid,
        (2, Member::Metadata, _, b"resourceVersion") => Member::ResourceVersion,
        (2, Member::Metadata, _, b"annotations") => Member::Annotations,
        (3, Member::Metadata, Member::Annotations, b"k8s.io/initial-events-end") => Member::InitialEventsEnd,
        _ => Member::Other,
    }
}

/// A JSON string's text. Names have no escapes; where there is one, the general parser reads it.
fn unescape(raw: &[u8]) -> String {
    if raw.contains(&b'\\') {
        let quoted = [b"\"", raw, b"\""].concat();
        return serde_json::from_slice(&quoted).unwrap_or_default();
    }
    String::from_utf8_lossy(raw).into_owned()
}
