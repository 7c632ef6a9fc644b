//! The bytes of answers: status line, header fields, the front's own `metav1.Status` bodies. Pure.

use std::io::Write as _;

use super::BodyLength;
use super::head::Refusal;

/// The `100 Continue` of RFC 9110 section 10.1.1.
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The answer to plain HTTP on the TLS port: Go's words (`net/http` server.go, `conn.serve`), which operators know.
pub(super) const PLAIN_HTTP: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// How an answer's body is delimited on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes are still to be written.
    Exact(u64),
    /// Chunks.
    Chunked,
    /// The connection's end is the body's (HTTP/1.0 with a length that is not known).
    UntilClose,
    /// No body is sent whatever is written: HEAD, 204, 304.
    Swallowed,
}

/// What the `Connection` field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// No field: HTTP/1.1's default, keep.
    Default,
    /// `keep-alive`, for an HTTP/1.0 client that asked for it.
    KeepAlive,
    /// `close`
    Close,
}

/// The first line.
pub(super) fn start(out: &mut Vec<u8>, status: u16) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", phrase(status));
}

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// One field; `Err`: its name is no token, its value would end the line, or the front alone writes it.
pub(super) fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err("a header field's name is no token");
    }
    if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Err("a header field's value holds CR, LF or NUL");
    }
    if ["connection", "content-length", "transfer-encoding"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
        return Err("framing fields are the front's to write");
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The framing fields and the blank line that ends the head. `may_have_length`: the status allows `Content-Length`
/// (RFC 9110 section 8.6: not with 204); `body_follows`: false for HEAD, 204 and 304.
pub(super) fn end(
    out: &mut Vec<u8>,
    length: BodyLength,
    may_have_length: bool,
    body_follows: bool,
    persistence: Persistence,
) {
    match length {
        BodyLength::Exact(length) if may_have_length => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        // To a HEAD, no length at all means that it is not known.
        BodyLength::None if may_have_length && body_follows => out.extend_from_slice(b"Content-Length: 0\r\n"),
        BodyLength::Chunked if may_have_length => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        BodyLength::None | BodyLength::Exact(_) | BodyLength::Chunked => {}
    }
    match persistence {
        Persistence::Default => {}
        Persistence::KeepAlive => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Persistence::Close => out.extend_from_slice(b"Connection: close\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// The whole of the front's own answer to a request that it refuses; without the body for HEAD.
pub(super) fn refuse(out: &mut Vec<u8>, refusal: Refusal, head_only: bool) {
    let (status, reason, message) = words(refusal);
    // All words are constants without anything to escape.
    let details = if refusal == Refusal::TooManyConnections { r#""details":{"retryAfterSeconds":1},"# } else { "" };
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"{message}","reason":"{reason}",{details}"code":{status}}}"#
    );
    start(out, status);
    out.extend_from_slice(b"Content-Type: application/json\r\n");
    match refusal {
        Refusal::TooManyConnections => out.extend_from_slice(b"Retry-After: 1\r\n"),
        // RFC 9110 section 15.5.6 asks for the list; CONNECT is the one method refused here.
        Refusal::Connect => out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"),
        _ => {}
    }
    end(out, BodyLength::Exact(body.len() as u64), true, !head_only, Persistence::Close);
    if !head_only {
        out.extend_from_slice(body.as_bytes());
    }
}

/// HTTP status, `metav1.StatusReason` (apimachinery `pkg/apis/meta/v1/types.go`) and message.
fn words(refusal: Refusal) -> (u16, &'static str, &'static str) {
    match refusal {
        Refusal::HeadTooLarge => (431, "RequestEntityTooLarge", "the request's header fields exceed 64 KiB"),
        Refusal::TargetTooLong => (414, "RequestEntityTooLarge", "the request's target exceeds 64 KiB"),
        Refusal::TooManyFields => (431, "RequestEntityTooLarge", "the request has more than 256 header fields"),
        Refusal::HeadTooSlow => (408, "Timeout", "the request's head did not come in time"),
        Refusal::BodyTooSlow => (408, "Timeout", "the request's body stalled"),
        Refusal::BareLineFeed => (400, "BadRequest", "a line of the request's head does not end with CR LF"),
        Refusal::RequestLine => (400, "BadRequest", "the request line is malformed"),
        Refusal::Target => (400, "BadRequest", "the request's target is invalid; it must be a path, percent-encoded"),
        Refusal::Version => (505, "BadRequest", "only HTTP/1.1 and HTTP/1.0 are spoken here"),
        Refusal::Field => (400, "BadRequest", "a header field is malformed"),
        Refusal::Host => (400, "BadRequest", "the request must have exactly one valid Host header field"),
        Refusal::ContentLength => (400, "BadRequest", "Content-Length must be one decimal number"),
        Refusal::TransferEncoding => (400, "BadRequest", "Transfer-Encoding must be chunked, once, and in HTTP/1.1"),
        Refusal::TwoFramings => (400, "BadRequest", "Content-Length and Transfer-Encoding exclude each other"),
        Refusal::Chunk => (400, "BadRequest", "the request's chunked body is malformed"),
        Refusal::Connect => (405, "MethodNotAllowed", "CONNECT is not served here"),
        Refusal::Expectation => (417, "BadRequest", "only the expectation 100-continue is known"),
        Refusal::TooManyConnections => (429, "TooManyRequests", "too many connections are open, try again later"),
        Refusal::UnsendableAnswer => (500, "InternalError", "the answer cannot be put into HTTP"),
    }
}

/// Reason phrases of RFC 9110 and RFC 6585 for what a Kubernetes API answers with; empty for others, as RFC 9112
/// section 4 allows.
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn framing_fields() {
        let table = [
            (BodyLength::None, true, true, "Content-Length: 0\r\n\r\n"),
            (BodyLength::None, true, false, "\r\n"),
            (BodyLength::None, false, false, "\r\n"),
            (BodyLength::Exact(7), true, true, "Content-Length: 7\r\n\r\n"),
            (BodyLength::Exact(7), true, false, "Content-Length: 7\r\n\r\n"),
            (BodyLength::Exact(7), false, false, "\r\n"),
            (BodyLength::Chunked, true, true, "Transfer-Encoding: chunked\r\n\r\n"),
            (BodyLength::Chunked, false, false, "\r\n"),
        ];
        for (length, may, follows, expected) in table {
            assert_eq!(text(|out| end(out, length, may, follows, Persistence::Default)), expected, "{length:?}");
        }
        let close = text(|out| end(out, BodyLength::None, true, true, Persistence::Close));
        assert_eq!(close, "Content-Length: 0\r\nConnection: close\r\n\r\n");
        let keep = text(|out| end(out, BodyLength::None, true, true, Persistence::KeepAlive));
        assert_eq!(keep, "Content-Length: 0\r\nConnection: keep-alive\r\n\r\n");
    }

    #[test]
    fn fields_that_cannot_be_sent() {
        let mut out = Vec::new();
        for (name, value) in [
            ("", "a"),
            ("a b", "c"),
            ("a:", "c"),
            ("a\r", "c"),
            ("X", "a\rb"),
            ("X", "a\nb"),
            ("X", "a\0b"),
            ("connection", "close"),
            ("Content-length", "5"),
            ("TRANSFER-ENCODING", "chunked"),
        ] {
            assert!(field(&mut out, name, value.as_bytes()).is_err(), "{name:?}: {value:?}");
        }
        assert!(out.is_empty());
        field(&mut out, "Warning", b"299 - \"text\" \xc3\xa9").unwrap();
        assert_eq!(out, b"Warning: 299 - \"text\" \xc3\xa9\r\n");
    }

    /// Every refusal is a Status that says the same code as its status line.
    #[test]
    fn refusals_are_status_objects() {
        let all = [
            Refusal::HeadTooLarge,
            Refusal::TargetTooLong,
            Refusal::TooManyFields,
            Refusal::HeadTooSlow,
            Refusal::BodyTooSlow,
            Refusal::BareLineFeed,
            Refusal::RequestLine,
            Refusal::Target,
            Refusal::Version,
            Refusal::Field,
            Refusal::Host,
            Refusal::ContentLength,
            Refusal::TransferEncoding,
            Refusal::TwoFramings,
            Refusal::Chunk,
            Refusal::Connect,
            Refusal::Expectation,
            Refusal::TooManyConnections,
            Refusal::UnsendableAnswer,
        ];
        for refusal in all {
            let answer = text(|out| refuse(out, refusal, false));
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(status["kind"], "Status");
            assert_eq!(status["apiVersion"], "v1");
            assert!(!status["reason"].as_str().unwrap().is_empty());
            assert!(head.starts_with(&format!("HTTP/1.1 {} ", status["code"])), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert!(head.ends_with("\r\nConnection: close"), "{head}");
            assert!(!phrase(u16::try_from(status["code"].as_u64().unwrap()).unwrap()).is_empty());
            let retry = refusal == Refusal::TooManyConnections;
            assert_eq!(head.contains("\r\nRetry-After: 1\r\n"), retry);
            assert_eq!(status["details"]["retryAfterSeconds"] == 1, retry);
            assert_eq!(text(|out| refuse(out, refusal, true)), format!("{head}\r\n\r\n"));
        }
    }
}
