//! A watch, cut into events while it streams.

use super::gathering::Gathering;
use super::token::{self, Token, Tokenizer};
use crate::record::{Event, EventKind, Facts, Frame, Malformed, flags};

/// Cuts one watch into events. However its bytes come in pieces, the same comes out.
#[derive(Debug)]
pub(in crate::record) struct WatchReader {
    max_object: usize,
    pending: Vec<u8>,
    /// Of the pending bytes, those of the event handed out last.
    used: usize,
    tokens: Tokenizer,
    scanned: usize,
}

impl WatchReader {
    /// A reader of one watch whose events are about `max_object` bytes long at most.
    pub(in crate::record) fn new(max_object: usize) -> WatchReader {
        WatchReader { max_object, pending: Vec::new(), used: 0, tokens: Tokenizer::new(), scanned: 0 }
    }

    /// Takes the next bytes.
    pub(in crate::record) fn push(&mut self, bytes: &[u8]) {
        self.drop_used();
        self.pending.extend_from_slice(bytes);
    }

    /// The next event that is whole; `None`: more bytes are needed.
    ///
    /// # Errors
    /// What came is no event, or one that is too long. [`WatchReader::take_rest`] has what was not handed out.
    pub(in crate::record) fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Malformed> {
        self.drop_used();
        while !self.tokens.is_done() {
            let fresh = self.tokens.is_fresh();
            let token = self.tokens.next(&self.pending, &mut self.scanned)?;
            if fresh && token.is_some_and(|t| t != Token::Open(b'{')) {
                return Err(Malformed::UnknownEvent);
            }
            if token.is_none() && !self.tokens.is_done() {
                // The type and the braces around an object come on top of it.
                if self.pending.len() > self.max_object + 1024 {
                    return Err(Malformed::TooLarge);
                }
                return Ok(None);
            }
        }
        self.used = self.scanned + token::blanks(&self.pending[self.scanned..]);
        self.tokens = Tokenizer::new();
        self.scanned = 0;
        let raw = &self.pending[..self.used];
        match read(raw) {
            Ok(event) => Ok(Some(Frame { raw, event })),
            Err(e) => {
                self.used = 0;
                Err(e)
            }
        }
    }

    /// What separates the event handed out last from the next, where it came after the event itself.
    pub(in crate::record) fn take_blanks(&mut self) -> Vec<u8> {
        self.drop_used();
        let blanks = token::blanks(&self.pending);
        self.scanned = self.scanned.saturating_sub(blanks);
        self.pending.drain(..blanks).collect()
    }

    /// Whether all bytes that came were whole events.
    pub(in crate::record) fn is_at_border(&self) -> bool {
        let rest = &self.pending[self.used..];
        token::blanks(rest) == rest.len()
    }

    /// What came and was not handed out.
    pub(in crate::record) fn take_rest(&mut self) -> Vec<u8> {
        self.drop_used();
        std::mem::take(&mut self.pending)
    }

    fn drop_used(&mut self) {
        if self.used > 0 {
            self.pending.drain(..self.used);
            self.used = 0;
            // A watch is mostly idle, and many are.
            if self.pending.is_empty() {
                self.pending = Vec::new();
            }
        }
    }
}

/// Reads one whole event.
fn read(raw: &[u8]) -> Result<Event, Malformed> {
    let members = token::members(raw)?;
    let member = |name: &[u8]| members.iter().find(|m| m.key == name).map(|m| m.value.clone());
    if [b"type".as_slice(), b"object"].iter().any(|name| members.iter().filter(|m| m.key == *name).count() > 1) {
        return Err(Malformed::Ambiguous);
    }
    let kind = member(b"type").and_then(|t| EventKind::parse(raw[t].strip_prefix(b"\"")?.strip_suffix(b"\"")?));
    let (Some(kind), Some(object)) = (kind, member(b"object")) else { return Err(Malformed::UnknownEvent) };
    let facts = facts_of(&raw[object.clone()], Gathering::of_object())?;
    let mut objects = Vec::new();
    if facts.type_meta.kind == "Table" {
        for row in elements(raw, &object, b"rows")? {
            objects.push((facts_of(&raw[row.clone()], Gathering::of_row())?, row, 0));
        }
    } else {
        objects.push((facts.clone(), object, flags::of(&facts)));
    }
    match kind {
        EventKind::Bookmark | EventKind::Error => objects.clear(),
        _ if objects.iter().any(|(facts, ..)| facts.name.is_empty()) => return Err(Malformed::NoName),
        _ => {}
    }
    Ok(Event { kind, facts, objects })
}

/// What is known of one whole object.
fn facts_of(object: &[u8], mut gathering: Gathering) -> Result<Facts, Malformed> {
    let (mut tokens, mut at) = (Tokenizer::new(), 0);
    loop {
        let before = tokens.depth();
        let Some(token) = tokens.next(object, &mut at)? else { break };
        let depth = before + usize::from(matches!(token, Token::Open(_))) - usize::from(token == Token::Close);
        let key_at = if let Token::Key(key) = token { at.saturating_sub(key.len() + 2) } else { 0 };
        if before > 0 {
            gathering.token(token, depth, key_at)?;
        } else if token != Token::Open(b'{') {
            return Err(Malformed::UnknownEvent);
        }
    }
    gathering.end()
}

/// The ranges, in `raw`, of the elements of the array that is the member `name` of the object at `object`; none where it
/// is no array.
fn elements(
    raw: &[u8],
    object: &std::ops::Range<usize>,
    name: &[u8],
) -> Result<Vec<std::ops::Range<usize>>, Malformed> {
    let Some(array) = token::members(&raw[object.clone()])?.into_iter().find(|m| m.key == name) else {
        return Ok(Vec::new());
    };
    let base = object.start + array.value.start;
    let text = &raw[base..object.start + array.value.end];
    let (mut tokens, mut at, mut begun, mut found) = (Tokenizer::new(), 0, 0, Vec::new());
    loop {
        let before = tokens.depth();
        match tokens.next(text, &mut at)? {
            None => break,
            Some(Token::Open(b'{')) if before == 1 => begun = at - 1,
            Some(Token::Close) if before == 2 => found.push(base + begun..base + at),
            Some(_) => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCH: &str = concat!(
        r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"x","uid":"1","resourceVersion":"5"}}}"#,
        "\n",
        r#"{"type":"DELETED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"b","namespace":"x","uid":"2","resourceVersion":"7"},"s":"}\n{"}}"#,
        r#"{"object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}},"type":"BOOKMARK"}"#,
        "\n",
        r#"{"type":"ADDED","object":{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"11"},"columnDefinitions":null,"rows":[{"cells":["{"],"object":{"metadata":{"name":"c","resourceVersion":"11"}}}]}}"#,
        "\n",
        r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410}}"#,
        "\n",
    );

    /// What came out, a line an event, and the bytes passed on.
    fn cut(pieces: &[&[u8]]) -> (Vec<String>, Vec<u8>) {
        let mut reader = WatchReader::new(1000);
        let (mut lines, mut raw) = (Vec::new(), Vec::new());
        for piece in pieces {
            reader.push(piece);
            while let Some(frame) = reader.next_frame().expect("events") {
                raw.extend_from_slice(frame.raw);
                let items: Vec<String> = frame.items().map(|i| format!("{} {}", i.facts.name, i.bytes.len())).collect();
                let facts = &frame.event.facts;
                lines.push(format!(
                    "{} {items:?} {} {}",
                    frame.event.kind.name(),
                    facts.resource_version,
                    facts.initial_events_end
                ));
            }
            raw.extend_from_slice(&reader.take_blanks());
        }
        assert!(reader.is_at_border());
        (lines, raw)
    }

    #[test]
    fn however_a_watch_is_cut_the_same_events_come_out() {
        let all = WATCH.as_bytes();
        let (lines, raw) = cut(&[all]);
        assert_eq!(raw, all);
        assert_eq!(lines[0], r#"ADDED ["a 104"] 5 false"#);
        assert_eq!(lines[2], "BOOKMARK [] 9 true");
        assert!(lines[3].starts_with(r#"ADDED ["c "#), "{}", lines[3]);
        assert_eq!(lines.len(), 5);
        for at in 0..all.len() {
            let (other, raw) = cut(&[&all[..at], &all[at..]]);
            assert_eq!((other, raw), (lines.clone(), all.to_vec()), "cut at {at}");
        }
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(cut(&bytes).0, lines);
    }

    /// Form feed was blank after an event and not before one, so that it mattered where the bytes were cut.
    #[test]
    fn only_the_blanks_of_json_stand_between_events() {
        let event =
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}"#;
        for byte in 0..=u8::MAX {
            let blank = b" \n\r\t".contains(&byte);
            let all = [event.as_bytes(), &[byte, b' ', byte], event.as_bytes(), &[byte]].concat();
            for cut in 0..=all.len() {
                let mut reader = WatchReader::new(1000);
                let mut events = 0;
                let mut read = |reader: &mut WatchReader| {
                    while reader.next_frame()?.is_some() {
                        events += 1;
                    }
                    reader.take_blanks();
                    Ok::<_, Malformed>(())
                };
                reader.push(&all[..cut]);
                let sound = read(&mut reader).and_then(|()| {
                    reader.push(&all[cut..]);
                    read(&mut reader)
                });
                let is_so = (sound.is_ok(), reader.is_at_border(), events);
                assert_eq!(is_so, (blank, blank, 1 + usize::from(blank)), "{byte:#x}, cut at {cut}");
            }
        }
    }

    #[test]
    fn the_end_within_an_event_is_no_border() {
        let mut reader = WatchReader::new(1000);
        reader.push(&WATCH.as_bytes()[..40]);
        assert!(matches!(reader.next_frame(), Ok(None)));
        assert!(!reader.is_at_border());
        assert_eq!(reader.take_rest(), &WATCH.as_bytes()[..40]);
    }

    #[test]
    fn what_is_no_event_is_handed_back() {
        for bad in [
            "nonsense",
            "{}",
            r#"{"type":"NEW","object":{}}"#,
            r#"{"type":"ADDED","object":{"metadata":{}}}"#,
            r#"{"type":"ADDED","object":1}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}},"type":"DELETED"}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"},"metadata":{}}}"#,
        ] {
            let mut reader = WatchReader::new(1000);
            reader.push(bad.as_bytes());
            assert!(reader.next_frame().is_err(), "{bad}");
            assert_eq!(reader.take_rest(), bad.as_bytes());
        }
        let mut reader = WatchReader::new(10);
        reader.push(format!("{{\"type\":\"{}", "x".repeat(2000)).as_bytes());
        assert_eq!(reader.next_frame().err(), Some(Malformed::TooLarge));
    }
}
