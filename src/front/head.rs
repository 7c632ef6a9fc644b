//! Request heads (RFC 9112 sections 2 to 7): bytes become a [`RequestHead`], or a named [`Refusal`]. Pure. Strict
//! wherever two parsers might disagree on where a request ends, since what follows could then be smuggled in as a
//! request of its own. Does not look at what a request means.

use std::mem::MaybeUninit;

use super::{BodyLength, RequestHead};

#[cfg(test)]
mod tests;

/// The most bytes of one head, request line and blank lines included.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// The most header fields of one head.
pub(super) const MAX_FIELDS: usize = 256;

/// Why the front itself answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The head is over [`MAX_HEAD`], its request line is not.
    HeadTooLarge,
    /// The request line alone is over [`MAX_HEAD`].
    TargetTooLong,
    /// More than [`MAX_FIELDS`] fields.
    TooManyFields,
    /// The head did not come within its time.
    HeadTooSlow,
    /// The body stalled.
    BodyTooSlow,
    /// A line ends with LF alone.
    BareLineFeed,
    /// The request line is no method, target, version.
    RequestLine,
    /// Control bytes, non-ASCII, a fragment, or none of the target forms of RFC 9112 section 3.2.
    Target,
    /// Neither HTTP/1.1 nor HTTP/1.0; HTTP/2's preface too.
    Version,
    /// A field that is no field: space before the colon, a folded line, control bytes.
    Field,
    /// No `Host` in HTTP/1.1, or several, or one that is no host.
    Host,
    /// Several `Content-Length`, or one that is no number.
    ContentLength,
    /// A `Transfer-Encoding` other than exactly `chunked`, several of them, or one in HTTP/1.0.
    TransferEncoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    TwoFramings,
    /// A chunk's size or terminator is malformed, or the trailers are too large.
    Chunk,
    /// `CONNECT`.
    Connect,
    /// An `Expect` other than `100-continue`.
    Expectation,
    /// Past the bound on connections.
    TooManyConnections,
    /// The handler's own answer cannot be sent.
    UnsendableAnswer,
}

/// What a head asks of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// HTTP/1.0: no chunked answers, and no keep-alive unless asked for.
    pub(super) http10: bool,
    /// The client would send another request on this connection.
    pub(super) keep_alive: bool,
    /// The client sends its body only after `100 Continue`.
    pub(super) expect_continue: bool,
}

/// Finds a head's end in bytes that come piece by piece, looking at each byte once.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The last byte of the piece before.
    last: u8,
    /// Bytes of the line that is not ended yet.
    line: usize,
    /// Lines ended, blank ones before the request line not counted (RFC 9112 section 2.2 has them ignored).
    lines: usize,
    /// Length of the first of them.
    request_line: usize,
}

impl Scanner {
    /// `Some(n)`: the head ends with the `n`th byte of this piece. `None`: it goes on.
    pub(super) fn scan(&mut self, piece: &[u8]) -> Result<Option<usize>, Refusal> {
        let mut start = 0;
        while let Some(length) = piece[start..].iter().position(|&byte| byte == b'\n') {
            let end = start + length;
            let before = if end == 0 { self.last } else { piece[end - 1] };
            if before != b'\r' {
                return Err(Refusal::BareLineFeed);
            }
            if self.line + length > 1 {
                if self.lines == 0 {
                    self.request_line = self.line + length;
                }
                self.lines += 1;
            } else if self.lines > 0 {
                return Ok(Some(end + 1));
            }
            self.line = 0;
            start = end + 1;
        }
        self.line += piece.len() - start;
        self.last = piece.last().copied().unwrap_or(self.last);
        Ok(None)
    }

    /// What a head is told that grew over [`MAX_HEAD`] before its end was found.
    pub(super) fn too_large(&self) -> Refusal {
        if self.lines == 0 || self.request_line > MAX_HEAD { Refusal::TargetTooLong } else { Refusal::HeadTooLarge }
    }
}

/// Parses a whole head, its last blank line included, as [`Scanner`] found it. `head` is written over: its allocations
/// serve the next request on the connection again. What it holds after an error is unspecified.
pub(super) fn parse(bytes: &[u8], head: &mut RequestHead) -> Result<Terms, Refusal> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut room) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Refusal::RequestLine),
        // Of what is no version at all, the line is wrong: a blank in the target, say.
        Err(httparse::Error::Version) if !names_version(bytes) => return Err(Refusal::RequestLine),
        Err(error) => return Err(refusal_of(error)),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::RequestLine);
    };
    let http10 = version == 0;
    head.method.clear();
    head.method.push_str(method);
    head.target.clear();
    push_origin_form(&mut head.target, method, target)?;
    let mut notes = Notes::default();
    for field in request.headers.iter() {
        notes.take(field.name, field.value)?;
    }
    copy_fields(request.headers, &mut head.headers);
    if notes.hosts == 0 && !http10 {
        return Err(Refusal::Host);
    }
    head.body = notes.body_length(http10)?;
    let expects = notes.expect_continue && !http10 && !matches!(head.body, BodyLength::None | BodyLength::Exact(0));
    Ok(Terms { http10, keep_alive: notes.keep_alive(http10), expect_continue: expects })
}

/// Whether the request line is three words, and the last one `HTTP/DIGIT.DIGIT` (RFC 9112 section 2.3).
fn names_version(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    words.next().is_none() && matches!(version, Some([a, b'.', b]) if a.is_ascii_digit() && b.is_ascii_digit())
}

fn refusal_of(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooManyFields,
        httparse::Error::Version => Refusal::Version,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Refusal::Field,
        httparse::Error::Token | httparse::Error::NewLine | httparse::Error::Status => Refusal::RequestLine,
    }
}

fn copy_fields(from: &[httparse::Header<'_>], to: &mut Vec<(String, Vec<u8>)>) {
    to.truncate(from.len());
    let kept = to.len();
    for ((name, value), field) in to.iter_mut().zip(from) {
        name.clear();
        name.push_str(field.name);
        value.clear();
        value.extend_from_slice(field.value);
    }
    to.extend(from[kept..].iter().map(|field| (field.name.to_owned(), field.value.to_vec())));
}

/// RFC 9112 section 3.2: origin form as it is, absolute form reduced to it, `*` for OPTIONS.
fn push_origin_form(to: &mut String, method: &str, target: &str) -> Result<(), Refusal> {
    if method == "CONNECT" {
        return Err(Refusal::Connect);
    }
    // A fragment is not sent (section 3.2); whoever is behind us might cut it off and see another path than we do.
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(Refusal::Target);
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        to.push_str(target);
        return Ok(());
    }
    let rest = strip_scheme(target).ok_or(Refusal::Target)?;
    let path = rest.find(['/', '?']).unwrap_or(rest.len());
    // A user there should be treated as an error (RFC 9110 section 4.2.4).
    if path == 0 || rest[..path].contains('@') {
        return Err(Refusal::Target);
    }
    if !rest[path..].starts_with('/') {
        to.push('/');
    }
    to.push_str(&rest[path..]);
    Ok(())
}

fn strip_scheme(target: &str) -> Option<&str> {
    ["https://", "http://"].into_iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    })
}

/// What the fields say about framing and the connection.
#[derive(Default)]
struct Notes {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    wish: Wish,
    expect_continue: bool,
}

/// The `Connection` fields together.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Wish {
    #[default]
    Unsaid,
    KeepAlive,
    /// Wins over `keep-alive` (RFC 9112 section 9.3).
    Close,
}

impl Notes {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        // The length first: nearly every field is none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                self.hosts += 1;
                if self.hosts > 1 || !is_host(value) {
                    return Err(Refusal::Host);
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refusal::Expectation);
                }
                self.expect_continue = true;
            }
            10 if name.eq_ignore_ascii_case("connection") => {
                for option in value.split(|&byte| byte == b',') {
                    let option = option.trim_ascii();
                    if option.eq_ignore_ascii_case(b"close") {
                        self.wish = Wish::Close;
                    } else if option.eq_ignore_ascii_case(b"keep-alive") && self.wish == Wish::Unsaid {
                        self.wish = Wish::KeepAlive;
                    }
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => {
                if self.length.is_some() {
                    return Err(Refusal::ContentLength);
                }
                self.length = Some(decimal(value).ok_or(Refusal::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 section 6.3, without its leniencies: where it allows a choice between reading and refusing, refuse.
    fn body_length(&self, http10: bool) -> Result<BodyLength, Refusal> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Refusal::TwoFramings),
            (true, None) if http10 => Err(Refusal::TransferEncoding),
            (true, None) => Ok(BodyLength::Chunked),
            (false, Some(length)) => Ok(BodyLength::Exact(length)),
            (false, None) => Ok(BodyLength::None),
        }
    }

    /// RFC 9112 section 9.3.
    fn keep_alive(&self, http10: bool) -> bool {
        match self.wish {
            Wish::Close => false,
            Wish::KeepAlive => true,
            Wish::Unsaid => !http10,
        }
    }
}

/// A host and perhaps a port; only what would make another reader see another host is refused. Empty is allowed where
/// the target has no authority (RFC 9112 section 3.2).
fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=:[]%".contains(byte))
}

/// `1*DIGIT` that fits.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}
