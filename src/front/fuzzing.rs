//! Doors for `tests/fuzz` to what is private here and reads foreign bytes. There only while fuzzing.

use super::body::Incoming;
use super::head::{self, MAX_HEAD, Scanner};
use super::{BodyLength, RequestHead};

/// A head as the connection's loop takes it in, `piece` bytes at a time: where it ended, and what it said; `Err`: the name
/// of the refusal. `None`: it has no end.
pub fn request_head(bytes: &[u8], piece: usize) -> Option<Result<(usize, RequestHead), String>> {
    let mut scanner = Scanner::default();
    let mut length = 0;
    for part in bytes.chunks(piece) {
        match scanner.scan(part) {
            Ok(Some(end)) => {
                length += end;
                let mut head = blank();
                let parsed =
                    if length > MAX_HEAD { Err(scanner.too_large()) } else { head::parse(&bytes[..length], &mut head) };
                return Some(parsed.map(|_| (length, head)).map_err(|refusal| format!("{refusal:?}")));
            }
            Ok(None) => length += part.len(),
            Err(refusal) => return Some(Err(format!("{refusal:?}"))),
        }
    }
    None
}

/// A chunked body, `piece` bytes of it at a time into `room` bytes: the body, how many bytes it took, and whether it ended.
/// `Err`: it is malformed.
pub fn chunked(bytes: &[u8], piece: usize, room: usize) -> Result<(Vec<u8>, usize, bool), ()> {
    let mut incoming = Incoming::new(BodyLength::Chunked);
    let (mut body, mut taken, mut buffer) = (Vec::new(), 0, vec![0; room]);
    for mut part in bytes.chunks(piece) {
        while !part.is_empty() && !incoming.is_done() {
            let step = incoming.decode(part, &mut buffer).map_err(|_| ())?;
            assert!(step.consumed > 0 || step.produced > 0, "it must go on");
            body.extend_from_slice(&buffer[..step.produced]);
            taken += step.consumed;
            part = &part[step.consumed..];
        }
    }
    Ok((body, taken, incoming.is_done()))
}

fn blank() -> RequestHead {
    RequestHead { method: String::new(), target: String::new(), headers: Vec::new(), body: BodyLength::None }
}
