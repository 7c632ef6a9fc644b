//! Framing of request bodies (RFC 9112 sections 6 and 7): framed bytes in, the body's own bytes out. Pure. Extensions
//! and trailers are read and dropped.

use super::BodyLength;
use super::answer::is_token;
use super::head::Refusal;

/// The most bytes of one chunk's extensions.
const MAX_EXTENSION: usize = 256;
/// The most bytes of all trailers together.
const MAX_TRAILERS: usize = 8 * 1024;

/// A request's body on its way in.
#[derive(Debug)]
pub(super) enum Incoming {
    /// This many bytes are still to come.
    Exact(u64),
    /// Chunks are still to come.
    Chunked(Chunked),
}

/// What one call of [`Incoming::decode`] did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Bytes taken from the input.
    pub(super) consumed: usize,
    /// Bytes written to the output.
    pub(super) produced: usize,
}

impl Incoming {
    pub(super) fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::None => Self::Exact(0),
            BodyLength::Exact(length) => Self::Exact(length),
            BodyLength::Chunked => Self::Chunked(Chunked::default()),
        }
    }

    /// Whether all of the body, its framing included, has been taken in.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Exact(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == State::Done,
        }
    }

    /// Bytes still to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Exact(left) => Some(*left),
            Self::Chunked(_) => None,
        }
    }

    /// Takes from `input` and fills `output`; stops where either is used up or the body is done. A step that produces
    /// nothing has used up the input or finished the body (`output` must not be empty).
    pub(super) fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Refusal> {
        match self {
            Self::Exact(left) => {
                let take = input.len().min(output.len()).min(usize::try_from(*left).unwrap_or(usize::MAX));
                output[..take].copy_from_slice(&input[..take]);
                *left -= take as u64;
                Ok(Step { consumed: take, produced: take })
            }
            Self::Chunked(chunked) => chunked.decode(input, output),
        }
    }
}

/// Where in the chunked framing the next byte belongs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The size's first digit.
    #[default]
    Start,
    /// Its other digits.
    Size,
    /// Extensions, up to the CR.
    Extension,
    /// The LF after the size.
    SizeEnd,
    /// The chunk's bytes.
    Data,
    /// The CR after them.
    DataCr,
    /// The LF after that.
    DataLf,
    /// The first byte of a trailer line or of the last, blank one.
    TrailerStart,
    /// The rest of a trailer's name, up to the colon: a request that follows a body without its last line is no trailer.
    TrailerName,
    /// The rest of a trailer line.
    Trailer,
    /// The LF after it.
    TrailerLf,
    /// The LF of the last line.
    LastLf,
    /// Nothing more belongs to this body.
    Done,
}

/// The chunked coding (RFC 9112 section 7.1).
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// While the size is read: its value so far. In the data: bytes left of the chunk.
    size: u64,
    /// Bytes of this chunk's extensions, or of the trailers.
    dropped: usize,
}

impl Chunked {
    fn decode(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Refusal> {
        let (mut consumed, mut produced) = (0, 0);
        while consumed < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let room = output.len() - produced;
                if room == 0 {
                    break;
                }
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let take = left.min(room).min(input.len() - consumed);
                output[produced..produced + take].copy_from_slice(&input[consumed..consumed + take]);
                consumed += take;
                produced += take;
                self.size -= take as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.frame(input[consumed])?;
                consumed += 1;
            }
        }
        Ok(Step { consumed, produced })
    }

    /// The state after one byte of framing.
    fn frame(&mut self, byte: u8) -> Result<State, Refusal> {
        match (self.state, byte) {
            (State::Start, _) => {
                self.size = hex(byte).ok_or(Refusal::Chunk)?;
                self.dropped = 0;
                Ok(State::Size)
            }
            (State::Size | State::Extension, b'\r') => Ok(State::SizeEnd),
            (State::Size, b';') => Ok(State::Extension),
            (State::Size, _) => {
                let digit = hex(byte).ok_or(Refusal::Chunk)?;
                self.size = self.size.checked_mul(16).ok_or(Refusal::Chunk)? | digit;
                self.drop_one(MAX_EXTENSION)?;
                Ok(State::Size)
            }
            (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.drop_one(MAX_EXTENSION)?;
                Ok(State::Extension)
            }
            (State::SizeEnd, b'\n') if self.size == 0 => {
                self.dropped = 0;
                Ok(State::TrailerStart)
            }
            (State::SizeEnd, b'\n') => Ok(State::Data),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Start),
            (State::TrailerStart, b'\r') => Ok(State::LastLf),
            (State::LastLf, b'\n') => Ok(State::Done),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::TrailerName, b':') | (State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.drop_one(MAX_TRAILERS)?;
                Ok(State::Trailer)
            }
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => {
                self.drop_one(MAX_TRAILERS)?;
                Ok(State::TrailerName)
            }
            _ => Err(Refusal::Chunk),
        }
    }

    fn drop_one(&mut self, limit: usize) -> Result<(), Refusal> {
        self.dropped += 1;
        if self.dropped > limit { Err(Refusal::Chunk) } else { Ok(()) }
    }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes with the input in pieces and the output in pieces; what is left of the input is returned too.
    fn decoded(input: &[u8], piece: usize, room: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Refusal> {
        let mut incoming = Incoming::new(BodyLength::Chunked);
        let (mut body, mut left) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; room];
        for bytes in input.chunks(piece) {
            let mut bytes = bytes;
            while !bytes.is_empty() && !incoming.is_done() {
                let step = incoming.decode(bytes, &mut buffer)?;
                assert!(step.consumed > 0 || step.produced > 0, "it must go on");
                body.extend_from_slice(&buffer[..step.produced]);
                bytes = &bytes[step.consumed..];
            }
            left.extend_from_slice(bytes);
        }
        Ok((body, left, incoming.is_done()))
    }

    #[test]
    fn chunks_in_any_pieces() {
        let input = b"5\r\nhello\r\nA;name=\"va lue\"\r\n0123456789\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\nGET /";
        for piece in 1..=input.len() {
            for room in [1, 2, 3, 7, 64] {
                let (body, left, done) = decoded(input, piece, room).unwrap();
                assert_eq!(body, b"hello0123456789", "{piece} {room}");
                assert_eq!(left, b"GET /", "{piece} {room}");
                assert!(done);
            }
        }
    }

    #[test]
    fn a_body_cut_anywhere_is_not_done() {
        let input = b"3\r\nabc\r\n0\r\nT: x\r\n\r\n";
        for length in 0..input.len() {
            assert!(!decoded(&input[..length], 64, 64).unwrap().2, "{length}");
        }
        assert!(decoded(input, 64, 64).unwrap().2);
    }

    #[test]
    fn malformed_chunks() {
        let table: &[&[u8]] = &[
            b"\r\nabc",
            b"g\r\n",
            b"0x5\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b" 5\r\nhello",
            b"5 \r\nhello",
            b"5\nhello",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n",
            b"5\r\nhello\rX",
            b"5\rX",
            b"5;a\nb\r\n",
            b"5;a\0\r\n",
            b"10000000000000000\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\n\n",
            b"0\r\nT: x\n\r\n",
            b"0\r\n\0",
            b"0\r\n\rX",
            b"0\r\nGET / HTTP/1.1\r\n",
            b"0\r\n: x\r\n",
            b"0\r\n folded\r\n",
        ];
        for input in table {
            assert_eq!(decoded(input, 64, 64), Err(Refusal::Chunk), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn the_largest_size_is_read_as_it_is() {
        let mut incoming = Incoming::new(BodyLength::Chunked);
        let step = incoming.decode(b"ffffffffffffffff\r\nab", &mut [0; 8]).unwrap();
        assert_eq!(step, Step { consumed: 20, produced: 2 });
        assert!(!incoming.is_done());
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let extension = |length| [b"1;".to_vec(), vec![b'e'; length], b"\r\na\r\n0\r\n\r\n".to_vec()].concat();
        assert!(decoded(&extension(MAX_EXTENSION), 64, 64).unwrap().2);
        assert_eq!(decoded(&extension(MAX_EXTENSION + 1), 64, 64), Err(Refusal::Chunk));
        let zeros = [vec![b'0'; MAX_EXTENSION + 2], b"1\r\n".to_vec()].concat();
        assert_eq!(decoded(&zeros, 64, 64), Err(Refusal::Chunk));
        let trailers = |count| [b"0\r\n".to_vec(), b"T: 45678\r\n".repeat(count), b"\r\n".to_vec()].concat();
        assert!(decoded(&trailers(MAX_TRAILERS / 8), 64, 64).unwrap().2);
        assert_eq!(decoded(&trailers(MAX_TRAILERS / 8 + 1), 64, 64), Err(Refusal::Chunk));
    }

    #[test]
    fn an_exact_body_takes_no_more_than_its_own() {
        let mut incoming = Incoming::new(BodyLength::Exact(5));
        let mut buffer = [0; 4];
        assert_eq!(incoming.decode(b"hello, next", &mut buffer), Ok(Step { consumed: 4, produced: 4 }));
        assert_eq!(incoming.left(), Some(1));
        assert_eq!(incoming.decode(b"o, next", &mut buffer), Ok(Step { consumed: 1, produced: 1 }));
        assert!(incoming.is_done());
        assert!(Incoming::new(BodyLength::None).is_done());
        assert!(Incoming::new(BodyLength::Exact(0)).is_done());
    }
}
