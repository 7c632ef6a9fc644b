//! One object, looked at while it streams.

use super::gathering::Gathering;
use super::token::{self, Token, Tokenizer};
use crate::record::{Facts, Malformed};

/// Learns what is to be known of one object without keeping it.
#[derive(Debug)]
pub(in crate::record) struct ObjectReader {
    tokens: Tokenizer,
    gathering: Gathering,
    seen: usize,
}

impl ObjectReader {
    /// A reader of one object.
    pub(in crate::record) fn new() -> ObjectReader {
        ObjectReader { tokens: Tokenizer::new(), gathering: Gathering::of_object(), seen: 0 }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The body is no object.
    pub(in crate::record) fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut at = 0;
        loop {
            if self.tokens.is_done() {
                return blank(&bytes[at..]);
            }
            let fresh = self.tokens.is_fresh();
            let depth_before = self.tokens.depth();
            match self.tokens.next(bytes, &mut at)? {
                None => {
                    if at == bytes.len() {
                        break;
                    }
                }
                Some(Token::Open(b'{')) if fresh => {}
                // A string's end too, which is no longer fresh where the string came in pieces.
                Some(_) if depth_before == 0 => return Err(Malformed::Syntax),
                Some(token) => {
                    let depth = depth_before + usize::from(matches!(token, Token::Open(_)))
                        - usize::from(token == Token::Close);
                    let key_at =
                        if let Token::Key(key) = token { (self.seen + at).saturating_sub(key.len() + 2) } else { 0 };
                    self.gathering.token(token, depth, key_at)?;
                }
            }
        }
        self.seen += bytes.len();
        Ok(())
    }

    /// What is known so far.
    pub(in crate::record) fn facts(&self) -> &Facts {
        &self.gathering.facts
    }

    /// What is known of the whole object.
    #[cfg(test)]
    pub(in crate::record) fn into_facts(self) -> Result<Facts, Malformed> {
        self.gathering.end()
    }

    /// # Errors
    /// The object has not been seen to its end.
    pub(in crate::record) fn finish(&self) -> Result<(), Malformed> {
        if self.tokens.is_done() { Ok(()) } else { Err(Malformed::Truncated) }
    }
}

/// # Errors
/// There is something but blanks.
pub(super) fn blank(bytes: &[u8]) -> Result<(), Malformed> {
    if token::blanks(bytes) == bytes.len() { Ok(()) } else { Err(Malformed::Trailing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, cut: usize) -> Result<ObjectReader, Malformed> {
        let mut reader = ObjectReader::new();
        reader.feed(&text.as_bytes()[..cut])?;
        reader.feed(&text.as_bytes()[cut..])?;
        Ok(reader)
    }

    #[test]
    fn metadata_is_found_wherever_it_stands_and_however_the_bytes_are_cut() {
        for text in [
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"x","uid":"u","resourceVersion":"7"},"spec":{"metadata":{"name":"no"}}}"#,
            r#"{"apiVersion":"v1","data":{"kind":"no"},"kind":"Pod","metadata":{"annotations":{"uid":"no"},"managedFields":[{"name":"no"}],"name":"a","namespace":"x","resourceVersion":"7","uid":"u"}}"#,
            "{\n  \"kind\": \"Pod\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n    \"n\\u0061mes\": \"no\", \"name\": \"a\", \"namespace\": \"x\", \"uid\": \"u\", \"resourceVersion\": \"7\" } }\n",
        ] {
            for cut in 0..=text.len() {
                let reader = read(text, cut).expect(text);
                let facts = reader.facts();
                assert_eq!(
                    (facts.type_meta.kind.as_str(), facts.name.as_str(), facts.namespace.as_str()),
                    ("Pod", "a", "x"),
                    "{text} at {cut}"
                );
                assert_eq!((facts.uid.as_str(), facts.resource_version.as_str()), ("u", "7"));
                assert!(facts.is_known());
                assert_eq!(reader.finish(), Ok(()));
            }
        }
    }

    /// Found by fuzzing (what was last said of a version counted for some readers and not for others), and while that was
    /// mended (a text in an array was taken for the value of the member that was read last).
    #[test]
    fn what_is_known_is_what_every_reader_finds() {
        let meta = r#""metadata":{"name":"a","resourceVersion":"7","uid":"u"}"#;
        for bad in [
            format!(r#"{{{meta},"metadata":{{"name":"a"}}}}"#),
            format!(r#"{{{meta},"kind":"Pod","kind":5}}"#),
            r#"{"metadata":{"name":"a","n\u0061me":"b"}}"#.to_owned(),
            format!(r#"{{{meta},"met\u0061data":{{}}}}"#),
        ] {
            assert_eq!(read(&bad, 0).err(), Some(Malformed::Ambiguous), "{bad}");
        }
        for good in [
            format!(r#"{{{meta},"kinds":["Pod"],"names":["x",{{"uid":"no"}},["no"],"y"],"n\u0061me":"no"}}"#),
            format!(r#"{{"spec":{{"name":"no","metadata":{{"uid":"no"}}}},{meta},"status":{{"name":"no"}}}}"#),
        ] {
            for cut in 0..=good.len() {
                let facts = read(&good, cut).expect(&good).into_facts().expect(&good);
                let known = [facts.name, facts.resource_version, facts.uid, facts.type_meta.kind];
                assert_eq!(known, ["a", "7", "u", ""], "{good} at {cut}");
            }
        }
    }

    #[test]
    fn what_is_cut_short_or_followed_by_anything_is_not_whole() {
        let text = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a\"b","uid":"u","resourceVersion":"7"}}"#;
        for cut in 0..text.len() {
            let mut reader = ObjectReader::new();
            reader.feed(&text.as_bytes()[..cut]).expect("so far so good");
            assert_eq!(reader.finish(), Err(Malformed::Truncated), "at {cut}");
        }
        for bad in ["{}x", "[]", "{\"a\":1]", "{\"a\" 1}", "{,}", "{\"a\":}", "nonsense", "{\"a\":\"\n\"}", "<html>"] {
            let mut reader = ObjectReader::new();
            assert!(reader.feed(bad.as_bytes()).is_err(), "{bad}");
        }
        // Found by fuzzing: a string that came in pieces was taken for an object.
        let mut reader = ObjectReader::new();
        assert!(reader.feed(b"\"in pie").and_then(|()| reader.feed(b"ces\"")).is_err());
        let deep = "[".repeat(5000);
        assert_eq!(ObjectReader::new().feed(format!("{{\"a\":{deep}").as_bytes()), Err(Malformed::TooDeep));
    }
}
