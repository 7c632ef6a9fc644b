//! JSON, byte by byte: a push tokenizer that keeps no more than one short string, and what is built on it. It checks
//! structure (so that a body can never be split in the wrong place), not the grammar of numbers and escapes: objects are
//! kept as they came.

use crate::record::Malformed;

/// Deepest nesting; kube-apiserver's own decoder stops at 10,000, and no object comes near.
const DEEPEST: usize = 1000;

/// The longest key or value that is handed on: names are at most 253 bytes, uids 36, labels 63.
const LONGEST_STRING: usize = 1024;

/// Deepest tokens that are told: what is to be known of an object stands at depth 3 of it, and it at most 3 deeper in a
/// Table in a list. What is below is checked and stepped over, which is most of every list.
const TOLD: usize = 6;

/// What the tokenizer tells, with the depth at which it stands: 0 is the whole value, 1 a member of the outermost
/// object or array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A key of the object at this depth, as written between its quotes; empty if longer than anything of interest.
    Key(&'a [u8]),
    /// A string value, likewise.
    Text(&'a [u8]),
    /// A number, `true`, `false` or `null` has begun.
    Scalar(u8),
    /// `{` or `[`
    Open(u8),
    /// `}` or `]`
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrClose,
    KeyOrClose,
    Key,
    Colon,
    CommaOrClose,
    Scalar,
    Done,
}

/// The tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    expect: Expect,
    /// `{` or `[` of each open container.
    open: Vec<u8>,
    in_string: bool,
    escaped: bool,
    is_key: bool,
    text: Vec<u8>,
}

impl Tokenizer {
    pub(super) fn new() -> Tokenizer {
        Tokenizer {
            expect: Expect::Value,
            open: Vec::new(),
            in_string: false,
            escaped: false,
            is_key: false,
            text: Vec::new(),
        }
    }

    /// How deep it stands, as far as it tells: whoever counts the tokens told comes to the same.
    pub(super) fn depth(&self) -> usize {
        self.open.len().min(TOLD)
    }

    fn is_told(&self) -> bool {
        self.open.len() <= TOLD
    }

    /// Whether one whole value has been seen. A number at the top is whole only when something follows; no object is one.
    pub(super) fn is_done(&self) -> bool {
        self.expect == Expect::Done
    }

    /// Whether nothing but blanks has been seen.
    pub(super) fn is_fresh(&self) -> bool {
        self.expect == Expect::Value && self.open.is_empty() && !self.in_string
    }

    /// Goes on through `bytes` from `at`. Returns after each token that is told, with where it stands after it; `None` at the end of
    /// the bytes, or once the value is whole.
    pub(super) fn next<'s>(&'s mut self, bytes: &'s [u8], at: &mut usize) -> Result<Option<Token<'s>>, Malformed> {
        while let Some(&b) = bytes.get(*at) {
            let told = self.is_told();
            if self.in_string {
                if self.string(bytes, at)? {
                    if told {
                        return Ok(Some(self.end_of_string()));
                    }
                    self.end_of_string();
                }
                continue;
            }
            if self.expect == Expect::Done {
                return Ok(None);
            }
            if self.expect == Expect::Scalar {
                let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
                *at += bytes[*at..].iter().take_while(|b| plain(b)).count();
                if *at < bytes.len() {
                    self.value_ended();
                }
                continue;
            }
            if is_blank(b) {
                *at += 1;
                continue;
            }
            *at += 1;
            match (self.expect, b) {
                (Expect::Key | Expect::KeyOrClose | Expect::Value | Expect::ValueOrClose, b'"') => {
                    let is_key = matches!(self.expect, Expect::Key | Expect::KeyOrClose);
                    let rest = &bytes[*at..];
                    let length = plain_run(rest);
                    if rest.get(length) != Some(&b'"') {
                        // With escapes, or cut.
                        self.begin_string(is_key);
                        continue;
                    }
                    *at += length + 1;
                    self.string_ended(is_key);
                    if told {
                        return Ok(Some(string_token(is_key, &rest[..length])));
                    }
                }
                (Expect::Colon, b':') => self.expect = Expect::Value,
                (Expect::CommaOrClose, b',') => {
                    self.expect = if self.open.last() == Some(&b'{') { Expect::Key } else { Expect::Value };
                }
                (Expect::KeyOrClose | Expect::CommaOrClose, b'}') if self.open.last() == Some(&b'{') => {
                    self.close();
                    if told {
                        return Ok(Some(Token::Close));
                    }
                }
                (Expect::ValueOrClose | Expect::CommaOrClose, b']') if self.open.last() == Some(&b'[') => {
                    self.close();
                    if told {
                        return Ok(Some(Token::Close));
                    }
                }
                (Expect::Value | Expect::ValueOrClose, b'{' | b'[') => {
                    if self.open.len() == DEEPEST {
                        return Err(Malformed::TooDeep);
                    }
                    self.open.push(b);
                    self.expect = if b == b'{' { Expect::KeyOrClose } else { Expect::ValueOrClose };
                    if self.is_told() {
                        return Ok(Some(Token::Open(b)));
                    }
                }
                (Expect::Value | Expect::ValueOrClose, b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                    self.expect = Expect::Scalar;
                    if told {
                        return Ok(Some(Token::Scalar(b)));
                    }
                }
                _ => return Err(Malformed::Syntax),
            }
        }
        Ok(None)
    }

    fn begin_string(&mut self, is_key: bool) {
        self.in_string = true;
        self.is_key = is_key;
        self.text.clear();
    }

    /// Goes on in a string; true at its end.
    fn string(&mut self, bytes: &[u8], at: &mut usize) -> Result<bool, Malformed> {
        let rest = &bytes[*at..];
        if self.escaped {
            self.escaped = false;
            self.keep(&rest[..1]);
            *at += 1;
            return Ok(false);
        }
        let stop = plain_run(rest);
        self.keep(&rest[..stop]);
        *at += stop;
        match rest.get(stop) {
            None => Ok(false),
            Some(b'"') => {
                *at += 1;
                self.in_string = false;
                Ok(true)
            }
            Some(b'\\') => {
                self.keep(b"\\");
                *at += 1;
                self.escaped = true;
                Ok(false)
            }
            Some(_) => Err(Malformed::Syntax),
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        // Only what stands near the top is of interest; one byte too many marks what is too long.
        if self.is_told() && self.text.len() <= LONGEST_STRING {
            let room = LONGEST_STRING + 1 - self.text.len();
            self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    fn end_of_string(&mut self) -> Token<'_> {
        self.string_ended(self.is_key);
        string_token(self.is_key, &self.text)
    }

    fn string_ended(&mut self, is_key: bool) {
        if is_key {
            self.expect = Expect::Colon;
        } else {
            self.value_ended();
        }
    }

    fn close(&mut self) {
        self.open.pop();
        self.value_ended();
    }

    fn value_ended(&mut self) {
        self.expect = if self.open.is_empty() { Expect::Done } else { Expect::CommaOrClose };
    }
}

/// What may stand between tokens (RFC 8259, section 2: no form feed, unlike ASCII's white space). Nothing else in this room
/// judges it: what is blank in one place only would depend on how a body is cut.
fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\n' | b'\r' | b'\t')
}

/// How many bytes at the beginning are blank.
pub(super) fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| is_blank(**b)).count()
}

fn string_token(is_key: bool, text: &[u8]) -> Token<'_> {
    let text = if text.len() > LONGEST_STRING { b"" } else { text };
    if is_key { Token::Key(text) } else { Token::Text(text) }
}

/// How many bytes come before the first quote, backslash or control byte; eight at a time, since strings are most of all
/// JSON.
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = u64::from_le_bytes([0x80; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest high bit is that of the first byte below `than`: a borrow only troubles the bytes above one.
        let below = |word: u64, than: u8| word.wrapping_sub(ONES * u64::from(than)) & !word & HIGHS;
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let stops = below(word, 0x20) | is(b'"') | is(b'\\');
        if stops != 0 {
            return index * 8 + stops.trailing_zeros() as usize / 8;
        }
    }
    let ends = |b: &u8| matches!(b, b'"' | b'\\') || *b < 0x20;
    words.len() * 8 + rest.iter().position(ends).unwrap_or(rest.len())
}

/// A member of an object: its key as written, where the key's opening quote stands, and its value's range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) key: Vec<u8>,
    pub(super) at: usize,
    pub(super) value: std::ops::Range<usize>,
}

/// The members of a whole object.
pub(super) fn members(object: &[u8]) -> Result<Vec<Span>, Malformed> {
    let mut tokens = Tokenizer::new();
    let (mut at, mut found): (usize, Vec<Span>) = (0, Vec::new());
    let mut open: Option<Span> = None;
    loop {
        let depth = tokens.depth();
        let Some(token) = tokens.next(object, &mut at)? else { break };
        let value_ends = match token {
            Token::Key(key) if depth == 1 => {
                open = Some(Span { key: key.to_vec(), at: at - key.len() - 2, value: at..at });
                false
            }
            Token::Text(_) | Token::Scalar(_) => depth == 1,
            Token::Close => depth == 2,
            _ => false,
        };
        if value_ends && let Some(mut span) = open.take() {
            let colon = object[span.value.start..].iter().position(|b| *b == b':').map_or(0, |n| n + 1);
            let start = span.value.start + colon;
            let blanks = blanks(&object[start..]);
            // Of a scalar only the first byte has been seen.
            let rest = if matches!(token, Token::Scalar(_)) {
                object[at..].iter().take_while(|b| !matches!(b, b',' | b'}' | b']') && !is_blank(**b)).count()
            } else {
                0
            };
            span.value = start + blanks..at + rest;
            found.push(span);
        }
    }
    if tokens.is_done() { Ok(found) } else { Err(Malformed::Truncated) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_run_ends_at_the_first_byte_that_means_something() {
        for before in 0..20 {
            for stop in 0..=255_u8 {
                for after in [b'a', 0, b'"', 0x1f, 0x80, 0xff] {
                    let mut text = vec![0xc3; before];
                    text.push(stop);
                    text.extend_from_slice(&[after; 9]);
                    let slow = text.iter().position(|b| matches!(b, b'"' | b'\\') || *b < 0x20).unwrap_or(text.len());
                    assert_eq!(plain_run(&text), slow, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_deep_is_stepped_over_and_still_checked() {
        let told = |text: &str| {
            let (mut tokens, mut at, mut count) = (Tokenizer::new(), 0, 0);
            while tokens.next(text.as_bytes(), &mut at)?.is_some() {
                count += 1;
            }
            Ok::<_, Malformed>((count, tokens.is_done(), tokens.depth()))
        };
        let nest = |inner: &str| format!("[[[[[[{inner}]]]]]]");
        assert_eq!(told(&nest("1")), Ok((13, true, 0)));
        assert_eq!(told(&nest("[{\"a\":[1,\"b\"]},{}],2")), Ok((13, true, 0)));
        assert_eq!(told(&nest("[{\"a\":[1,\"b\"},{}]")), Err(Malformed::Syntax));
        assert_eq!(told("[[[[[[[[1,"), Ok((6, false, TOLD)));
    }
}
