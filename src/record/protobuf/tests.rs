//! Lists, objects and watches as kube-apiserver writes them, cut and damaged in every way.

use super::wire::{put, put_header, put_varint};
use super::{Envelope, ListReader, ObjectReader, WatchReader};
use crate::record::{EventKind, Item, Malformed, StatusBody, TypeMeta};

const LARGEST: usize = 10_000;

/// Numbers that look random and are the same in every run (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.below(256) as u8).collect()
    }

    /// Cuts `all` into pieces.
    fn pieces<'a>(&mut self, mut all: &'a [u8]) -> Vec<&'a [u8]> {
        let most = [1, 3, 40, 1000][self.below(4)];
        let mut pieces = Vec::new();
        while !all.is_empty() {
            let (piece, rest) = all.split_at((1 + self.below(most)).min(all.len()));
            pieces.push(piece);
            all = rest;
        }
        pieces
    }
}

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, content)| put(*number, content, &mut out));
    out
}

/// A body; `k8s\0`, the type and the message.
fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = message(&[(1, api_version.as_bytes()), (2, kind.as_bytes())]);
    [b"k8s\0", message(&[(1, &type_meta), (2, raw), (3, b""), (4, b"")]).as_slice()].concat()
}

fn object(name: &str, uid: &str, version: &str, spec: &[u8]) -> Vec<u8> {
    let label = message(&[(1, b"app"), (2, b"web")]);
    let meta = message(&[
        (1, name.as_bytes()),
        (2, b""),
        (3, b"ns"),
        (4, b""),
        (5, uid.as_bytes()),
        (6, version.as_bytes()),
        (8, b"\x08\x01\x10\x00"),
        (11, &label),
    ]);
    message(&[(1, &meta), (2, spec), (3, b"")])
}

fn list_meta(version: &str, token: &str, remaining: Option<u8>) -> Vec<u8> {
    let mut meta = message(&[(1, b""), (2, version.as_bytes()), (3, token.as_bytes())]);
    meta.extend(remaining.iter().flat_map(|n| [0x20, *n]));
    meta
}

fn pods() -> Vec<u8> {
    let (a, b) = (object("a", "u1", "5", b"\x0a\x01x"), object("b", "u2", "6", &[b'y'; 300]));
    body("v1", "PodList", &message(&[(1, &list_meta("9", "", None)), (2, &a), (2, &b)]))
}

type Split = (Vec<(String, Vec<u8>)>, Envelope);

/// What came out: each object's facts and bytes, and the envelope.
fn split(pieces: &[&[u8]]) -> Result<Split, Malformed> {
    let (mut reader, mut items) = (ListReader::new(LARGEST), Vec::new());
    for piece in pieces {
        reader.feed(piece, &mut |of: &TypeMeta, item: Item<'_>| {
            let facts = item.facts;
            let said =
                format!("{} {}/{} {} {}", of.kind, facts.namespace, facts.name, facts.uid, facts.resource_version);
            assert_eq!(item.flags, 0);
            items.push((said, item.bytes.to_vec()));
        })?;
    }
    let envelope = reader.finish()?;
    assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Some(&envelope), "what is kept comes back");
    Ok((items, envelope))
}

fn write((items, envelope): &Split, version: &str) -> Vec<u8> {
    let mut sizes = envelope.sizes();
    items.iter().for_each(|(_, bytes)| sizes.add(bytes.len() as u64, 0));
    let mut list = envelope.list(version, sizes);
    let mut out = Vec::new();
    list.head(&mut out);
    items.iter().for_each(|(_, bytes)| list.object(bytes, 0, &mut out));
    list.tail(&mut out);
    assert_eq!(out.len() as u64, list.length(), "the length is told beforehand");
    out
}

#[test]
fn however_a_list_is_cut_the_same_comes_out_and_is_written_again() {
    let all = pods();
    let whole = split(&[&all]).expect("a list");
    let said: Vec<&str> = whole.0.iter().map(|(said, _)| said.as_str()).collect();
    assert_eq!(said, ["PodList ns/a u1 5", "PodList ns/b u2 6"]);
    assert_eq!((whole.1.resource_version(), whole.1.continue_token()), ("9", None));
    for cut in 0..=all.len() {
        assert_eq!(split(&[&all[..cut], &all[cut..]]).as_ref(), Ok(&whole), "cut at {cut}");
    }
    assert_eq!(split(&all.chunks(1).collect::<Vec<_>>()).as_ref(), Ok(&whole));
    assert_eq!(write(&whole, "9"), all);
}

#[test]
fn a_list_goes_on_to_another_version_and_loses_what_speaks_of_pages() {
    let item = object("a", "u", "5", b"");
    let unknown = [0xd8, 0x07, 0x05];
    let list = |version, token, remaining| {
        let meta = [list_meta(version, token, remaining), unknown.to_vec()].concat();
        body("v1", "PodList", &[message(&[(1, &meta), (2, &item)]), unknown.to_vec()].concat())
    };
    let paged = split(&[&list("9", "next", Some(3))]).expect("a list");
    assert_eq!(paged.1.continue_token(), Some("next"));
    assert_eq!(write(&paged, "9"), list("9", "", None));
    let long = "123456789".repeat(20);
    assert_eq!(write(&paged, &long), list(&long, "", None), "a longer version makes longer lengths");
}

#[test]
fn a_list_may_say_that_it_is_protobuf() {
    let all = [pods(), message(&[(4, super::MEDIA_TYPE.as_bytes())])].concat();
    assert_eq!(write(&split(&[&all]).expect("a list"), "9"), all);
}

#[test]
fn empty_lists_are_lists() {
    for raw in [message(&[(1, &list_meta("9", "", None))]), Vec::new()] {
        let all = body("v1", "PodList", &raw);
        for cut in 0..=all.len() {
            let (items, envelope) = split(&[&all[..cut], &all[cut..]]).expect("a list");
            assert!(items.is_empty());
            assert_eq!(write(&(items, envelope), "9"), all);
        }
    }
}

#[test]
fn the_one_list_with_its_fields_the_other_way_round_is_a_list_too() {
    let raw = message(&[(1, &object("a", "u", "5", b"")), (2, &list_meta("9", "", None))]);
    let all = body("meta.k8s.io/v1beta1", "PartialObjectMetadataList", &raw);
    let whole = split(&all.chunks(7).collect::<Vec<_>>()).expect("a list");
    assert_eq!((whole.0.len(), whole.1.resource_version()), (1, "9"));
    assert_eq!(write(&whole, "9"), all);
}

#[test]
fn a_list_that_is_cut_short_is_never_whole() {
    let all = pods();
    // Unknown's fields after its message are empty, and may be left out.
    for end in 0..all.len() - 4 {
        assert_eq!(split(&[&all[..end / 2], &all[end / 2..end]]).err(), Some(Malformed::Truncated), "at {end}");
    }
}

#[test]
fn what_is_no_list_or_cannot_be_written_again_is_refused() {
    let item = object("a", "u", "5", b"");
    let meta = list_meta("9", "", None);
    let list = |fields: &[(u32, &[u8])]| body("v1", "PodList", &message(fields));
    let reordered = [b"k8s\0", message(&[(2, &meta), (1, b"")]).as_slice()].concat();
    let long_length = {
        let mut raw = message(&[(1, &meta)]);
        raw.extend([0x12, item.len() as u8 | 0x80, 0]);
        raw.extend(&item);
        body("v1", "PodList", &raw)
    };
    let long_list = {
        let type_meta = message(&[(1, b"v1"), (2, b"PodList")]);
        [b"k8s\0", message(&[(1, &type_meta)]).as_slice(), b"\x12\x80\x00"].concat()
    };
    let mut overlong = message(&[(1, &meta)]);
    put_header(2, 500, &mut overlong);
    for (what, bytes, why) in [
        ("JSON", b"{\"kind\":\"PodList\"}".to_vec(), Malformed::Syntax),
        ("an object", body("v1", "Pod", &item), Malformed::NotAList),
        ("no type", body("", "", &message(&[(1, &meta)])), Malformed::NotAList),
        ("a type that comes late", reordered, Malformed::NotAList),
        ("items in two places", list(&[(2, &item), (1, &meta), (2, &item)]), Malformed::NotAList),
        ("two kinds of metadata", list(&[(1, &meta), (2, &item), (1, &meta)]), Malformed::NotAList),
        ("an item without a name", list(&[(1, &meta), (2, b"")]), Malformed::NoName),
        ("an item that is no message", list(&[(1, &meta), (2, b"\x0a\x05x")]), Malformed::Syntax),
        (
            "a name that is no text",
            list(&[(2, &object("a", "\u{0}", "5", b"")), (2, b"\x0a\x03\x0a\x01\xff")]),
            Malformed::Syntax,
        ),
        ("a length longer than needed", long_length, Malformed::NotAList),
        ("another beginning", [b"k8s\x01", &pods()[4..]].concat(), Malformed::Syntax),
        ("no apiVersion", body("", "PodList", &message(&[(1, &meta)])), Malformed::NotAList),
        ("a type that comes again", [pods(), message(&[(1, b"")])].concat(), Malformed::NotAList),
        ("two metadata before the items", list(&[(1, &meta), (1, &meta), (2, &item)]), Malformed::NotAList),
        ("a list that ends in a tag", body("v1", "PodList", b"\x12"), Malformed::Syntax),
        ("a list whose length is longer than needed", long_list, Malformed::NotAList),
        ("metadata that is eight bytes", list(&[(2, b"\x09\x0a\x06abcdef")]), Malformed::Syntax),
        ("too much beside items, in two parts", list(&[(7, &[0; 6000]), (8, &[0; 6000])]), Malformed::TooLarge),
        (
            "an encoding that is a type",
            [pods(), message(&[(3, super::MEDIA_TYPE.as_bytes())])].concat(),
            Malformed::Syntax,
        ),
        ("an item longer than the list", body("v1", "PodList", &overlong), Malformed::Syntax),
        ("an item too large", list(&[(2, &object("a", "u", "5", &[0; LARGEST]))]), Malformed::TooLarge),
        ("too much beside items", list(&[(7, &[0; LARGEST])]), Malformed::TooLarge),
        ("a second message", [pods(), message(&[(2, b"")])].concat(), Malformed::NotAList),
        ("another encoding", [pods(), message(&[(3, b"gzip")])].concat(), Malformed::Syntax),
        ("another type of content", [pods(), message(&[(4, b"application/json")])].concat(), Malformed::Syntax),
        ("something after the end", [pods(), b"\n".to_vec()].concat(), Malformed::Truncated),
    ] {
        assert_eq!(split(&[&bytes]).err(), Some(why), "{what}");
        assert_eq!(split(&bytes.chunks(1).collect::<Vec<_>>()).err(), Some(why), "{what}, byte by byte");
    }
}

#[test]
fn a_damaged_envelope_is_nothing() {
    let (_, envelope) = split(&[&pods()]).expect("a list");
    let whole = envelope.encode();
    for cut in 0..whole.len() {
        assert_eq!(Envelope::decode(&whole[..cut]), None);
    }
    assert_eq!(Envelope::decode(&[whole.as_slice(), b"x"].concat()), None);
}

#[test]
fn an_object_out_of_a_list_is_what_a_get_answers() {
    let (items, envelope) = split(&[&pods()]).expect("a list");
    let mut out = Vec::new();
    envelope.object(&items[0].1, &mut out);
    assert_eq!(out, body("v1", "Pod", &object("a", "u1", "5", b"\x0a\x01x")));
}

#[test]
fn an_objects_metadata_is_found_however_its_bytes_are_cut() {
    let all = body("v1", "Pod", &object("a", "u", "5", &[7; 5000]));
    let version = all.windows(3).position(|w| w == b"\x32\x015").expect("the resourceVersion") + 3;
    for cut in 0..=all.len() {
        let mut reader = ObjectReader::new();
        reader.feed(&all[..cut]).expect("so far so good");
        assert_eq!(reader.facts().is_known(), cut >= version, "at {cut}");
        // The empty fields at the end may be left out; what comes before them may not.
        assert_eq!(reader.finish().is_ok(), [0, 2, 4].contains(&(all.len() - cut)), "at {cut}");
        reader.feed(&all[cut..]).expect("an object");
        let facts = reader.facts();
        assert_eq!((facts.name.as_str(), facts.namespace.as_str(), facts.uid.as_str()), ("a", "ns", "u"));
        assert_eq!((facts.resource_version.as_str(), facts.type_meta.kind.as_str()), ("5", "Pod"));
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let kind = message(&[(1, b"v1"), (2, b"Pod")]);
    let long = message(&[(1, &message(&[(1, &[b'x'; 5000])]))]);
    for (what, bytes) in [
        ("HTML", b"<html>".to_vec()),
        ("metadata that is a number", body("v1", "Pod", b"\x08\x01")),
        ("a name that is a number", body("v1", "Pod", b"\x0a\x02\x08\x01")),
        ("a name that is no text", body("v1", "Pod", b"\x0a\x03\x0a\x01\xff")),
        ("a name as no name is", body("v1", "Pod", &long)),
        ("metadata longer than the object", body("v1", "Pod", b"\x0a\x05\x0a\x01x")),
        ("a message twice", [body("v1", "Pod", b""), message(&[(2, b"")])].concat()),
        ("metadata that is eight bytes", body("v1", "Pod", b"\x09\x0a\x06abcdef")),
        ("a message that is eight bytes", b"k8s\0\x11\x0a\x06\x0a\x04abcd".to_vec()),
        ("a message that is a number", [b"k8s\0", message(&[(1, &kind)]).as_slice(), b"\x10\x01"].concat()),
    ] {
        let mut reader = ObjectReader::new();
        assert!(bytes.iter().try_for_each(|b| reader.feed(&[*b])).is_err(), "{what}");
    }
}

/// A frame of a watch, as kube-apiserver's would be.
fn frame(kind: &str, body: &[u8]) -> Vec<u8> {
    let event = message(&[(1, kind.as_bytes()), (2, &message(&[(1, body)]))]);
    [(event.len() as u32).to_be_bytes().as_slice(), &event].concat()
}

/// What came out of a watch, a line an event, and the bytes passed on.
fn events(pieces: &[&[u8]]) -> Result<(Vec<String>, Vec<u8>), Malformed> {
    let (mut reader, mut lines, mut raw) = (WatchReader::new(LARGEST), Vec::new(), Vec::new());
    for piece in pieces {
        reader.push(piece);
        while let Some(frame) = reader.next_frame()? {
            raw.extend_from_slice(frame.raw);
            let facts = &frame.event.facts;
            let items: Vec<(String, usize)> = frame.items().map(|i| (i.facts.name.clone(), i.bytes.len())).collect();
            let (kind, name) = (&facts.type_meta.kind, frame.event.kind.name());
            lines.push(format!("{name} {kind} {} {items:?} {}", facts.resource_version, facts.initial_events_end));
        }
    }
    assert!(reader.is_at_border() || !reader.take_rest().is_empty());
    Ok((lines, raw))
}

fn status() -> StatusBody {
    StatusBody { code: 410, reason: "Expired".into(), message: "too old".into(), cause: None }
}

#[test]
fn however_a_watch_is_cut_the_same_events_come_out() {
    let pod = object("a", "u", "5", b"");
    let bookmark = {
        let end = message(&[(1, b"k8s.io/initial-events-end"), (2, b"true")]);
        message(&[(1, &message(&[(6, b"9"), (12, &end)]))])
    };
    let all = [
        frame("ADDED", &body("v1", "Pod", &pod)),
        frame("MODIFIED", &body("v1", "Pod", &object("a", "u", "7", &[1; 300]))),
        frame("BOOKMARK", &body("v1", "Pod", &bookmark)),
        frame("DELETED", &body("v1", "Pod", &pod)),
        frame("ERROR", &super::status(&status())),
    ]
    .concat();
    let (lines, raw) = events(&[&all]).expect("events");
    assert_eq!(raw, all);
    let size = pod.len();
    assert_eq!(lines[0], format!("ADDED Pod 5 [(\"a\", {size})] false"));
    assert_eq!(lines[2], "BOOKMARK Pod 9 [] true");
    assert_eq!(lines[3], format!("DELETED Pod 5 [(\"a\", {size})] false"));
    assert_eq!(lines[4], "ERROR Status  [] false");
    for cut in 0..=all.len() {
        assert_eq!(events(&[&all[..cut], &all[cut..]]).as_ref(), Ok(&(lines.clone(), all.clone())), "cut at {cut}");
    }
    assert_eq!(events(&all.chunks(1).collect::<Vec<_>>()), Ok((lines, all)));
}

#[test]
fn the_object_of_an_event_is_kept_as_the_item_of_a_list_is() {
    let pod = object("a", "u", "5", b"\x0a\x01x");
    let mut reader = WatchReader::new(LARGEST);
    reader.push(&frame("ADDED", &body("v1", "Pod", &pod)));
    let frame = reader.next_frame().expect("an event").expect("a whole one");
    assert_eq!(frame.items().map(|i| (i.bytes.to_vec(), i.flags)).collect::<Vec<_>>(), [(pod, 0)]);
}

#[test]
fn what_is_no_event_is_handed_back() {
    let pod = body("v1", "Pod", &object("a", "u", "5", b""));
    for (what, bytes) in [
        ("JSON", b"{\"type\":\"ADDED\",\"object\":{}}\n".to_vec()),
        ("an event of another type", frame("NEW", &pod)),
        ("an object without a name", frame("ADDED", &body("v1", "Pod", b""))),
        ("an object without an envelope", frame("ADDED", &object("a", "u", "5", b""))),
        ("an event without an object", [0_u32.to_be_bytes().as_slice(), &frame("ADDED", b"")].concat()),
        ("an object without a message", frame("BOOKMARK", &body("v1", "Pod", b"")[..15])),
        (
            "an object with two messages",
            frame("ADDED", &[pod.clone(), message(&[(2, &object("a", "u", "5", b""))])].concat()),
        ),
        ("one that is too long", (LARGEST as u32 + 2000).to_be_bytes().to_vec()),
    ] {
        let mut reader = WatchReader::new(LARGEST);
        reader.push(&bytes);
        assert!(reader.next_frame().is_err(), "{what}");
        assert_eq!(reader.take_rest(), bytes, "{what}");
    }
    let whole = frame("ADDED", &pod);
    let mut reader = WatchReader::new(LARGEST);
    reader.push(&whole[..whole.len() - 1]);
    assert!(matches!(reader.next_frame(), Ok(None)));
    assert!(!reader.is_at_border(), "the end within an event is no border");
    assert_eq!(reader.take_rest(), whole[..whole.len() - 1]);
}

#[test]
fn what_a_held_watch_sends_is_what_kube_apiserver_would() {
    let (items, envelope) = split(&[&pods()]).expect("a list");
    let mut out = Vec::new();
    envelope.event(EventKind::Added, &items[0].1, &mut out);
    assert_eq!(out, frame("ADDED", &body("v1", "Pod", &items[0].1)));
    out.clear();
    envelope.bookmark("9", true, &mut out);
    envelope.bookmark("10", false, &mut out);
    super::put_error(&status(), &mut out);
    let (lines, _) = events(&[&out]).expect("events");
    assert_eq!(lines, ["BOOKMARK Pod 9 [] true", "BOOKMARK Pod 10 [] false", "ERROR Status  [] false"]);
}

#[test]
fn a_status_is_the_bytes_that_generated_code_reads() {
    let mut raw = message(&[
        (1, b"\x0a\x00\x12\x00\x1a\x00"),
        (2, b"Failure"),
        (3, b"m"),
        (4, b"Timeout"),
        (5, &message(&[(4, &message(&[(1, b"ResourceVersionTooLarge"), (2, b"c")]))])),
    ]);
    raw.extend(b"\x30\xf8\x03");
    let status = StatusBody {
        code: 504,
        reason: "Timeout".into(),
        message: "m".into(),
        cause: Some(("ResourceVersionTooLarge".into(), "c".into())),
    };
    assert_eq!(super::status(&status), body("v1", "Status", &raw));
}

/// A list with fields of all sorts where nobody expects them.
fn any_list(chance: &mut Chance) -> Vec<u8> {
    let stray = |chance: &mut Chance, out: &mut Vec<u8>| match chance.below(6) {
        0 => put(100 + chance.below(50) as u32, &chance.bytes(40), out),
        1 => {
            put_varint(200 << 3, out);
            put_varint(u64::MAX >> chance.below(64), out);
        }
        2 => out.extend([0xa1, 0x06, 1, 2, 3, 4, 5, 6, 7, 8]),
        3 => out.extend([0xa5, 0x06, 1, 2, 3, 4]),
        _ => {}
    };
    let mut raw = Vec::new();
    stray(chance, &mut raw);
    let mut meta = list_meta(&chance.below(1_000_000).to_string(), "", None);
    stray(chance, &mut meta);
    put(1, &meta, &mut raw);
    stray(chance, &mut raw);
    for _ in 0..chance.below(5) {
        let most = [10, 200, 3000][chance.below(3)];
        let spec = chance.bytes(most);
        let mut item = object(&format!("n{}", chance.below(1000)), "u", "5", &spec);
        stray(chance, &mut item);
        put(2, &item, &mut raw);
    }
    stray(chance, &mut raw);
    let mut all = body("v1", "PodList", &raw);
    stray(chance, &mut all);
    all
}

#[test]
fn any_list_in_any_pieces_comes_back_byte_for_byte() {
    for seed in 1..2000 {
        let mut chance = Chance(seed);
        let all = any_list(&mut chance);
        let whole = split(&[&all]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(split(&chance.pieces(&all)).as_ref(), Ok(&whole), "seed {seed}");
        let version = whole.1.resource_version().to_owned();
        assert_eq!(write(&whole, &version), all, "seed {seed}");
    }
}

#[test]
fn whatever_comes_is_cut_the_same_way_and_nothing_panics() {
    let pod = body("v1", "Pod", &object("a", "u", "5", b"abc"));
    for seed in 1..6000 {
        let mut chance = Chance(seed);
        let mut bytes = match chance.below(4) {
            0 => [b"k8s\0".to_vec(), chance.bytes(200)].concat(),
            1 => any_list(&mut chance),
            2 => pod.clone(),
            _ => [frame("ADDED", &pod), frame("DELETED", &pod)].concat(),
        };
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len());
            bytes[at] = chance.below(256) as u8;
        }
        let pieces = chance.pieces(&bytes);
        let whole = split(&[&bytes]);
        let piecewise = split(&pieces);
        assert_eq!(whole.is_ok(), piecewise.is_ok(), "seed {seed}");
        if let (Ok(whole), Ok(piecewise)) = (whole, piecewise) {
            assert_eq!(whole, piecewise, "seed {seed}");
            // What is written again is a list of the same objects, and stays what it is from then on.
            let version = whole.1.resource_version().to_owned();
            let written = write(&whole, &version);
            let again = split(&[&written]).expect("a list");
            assert_eq!((&again.0, write(&again, &version)), (&whole.0, written), "seed {seed}");
        }
        assert_eq!(events(&[&bytes]).ok(), events(&pieces).ok(), "seed {seed}");
        let facts_of = |pieces: &[&[u8]]| {
            let mut reader = ObjectReader::new();
            let fed = pieces.iter().try_for_each(|p| reader.feed(p)).and_then(|()| reader.finish());
            fed.map(|()| reader.facts().clone())
        };
        assert_eq!(facts_of(&[&bytes]).ok(), facts_of(&pieces).ok(), "seed {seed}");
    }
}
