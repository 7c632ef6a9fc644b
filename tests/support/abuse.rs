//! Requests as no client should send them: what is sent, what this proxy answers, what Go's server, which is what
//! kube-apiserver listens with, answers to the same bytes, and why the two differ where they do. Played against the real
//! binary by `tests/proxy/abuse.rs`, and against Go's server by `tests/kube/judge.rs`.
//!
//! Behind each case's bytes a well-formed request is sent, `GET /probe`. An outcome is the statuses of the answers that
//! came before it, and `keep` where it was answered: what came before was taken for exactly what it was. `cut` is an
//! answer that stops half-way, `hang` a connection on which nothing more comes although it is open.

use std::io::{self, BufRead, BufReader, Read, Write};

/// One case.
pub struct Case {
    pub name: &'static str,
    pub send: Vec<u8>,
    /// What the proxy answers.
    pub ours: &'static str,
    /// What reached the upstream: method, target and body of each request, divided by ` | `.
    pub saw: &'static str,
    /// What Go's server answers.
    pub go: &'static str,
    /// Where they differ: why.
    pub why: &'static str,
}

/// What follows each case.
pub const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// Sends a case and the probe, and says what came of it.
pub fn play<S: Read + Write>(mut stream: S, send: &[u8], close: impl FnOnce(&mut S)) -> String {
    // A server that refuses early may not take it all.
    let _ = stream.write_all(send).and_then(|()| stream.write_all(PROBE)).and_then(|()| stream.flush());
    let head_first = send.starts_with(b"HEAD");
    let mut reader = BufReader::new(stream);
    let mut said: Vec<String> = Vec::new();
    loop {
        match answer(&mut reader, head_first && said.is_empty()) {
            Ok(Some((_, body))) if body.starts_with(b"GET /probe") => {
                said.push("keep".to_owned());
                break;
            }
            Ok(Some((status, _))) => said.push(status.to_string()),
            Ok(None) => break,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                said.push("hang".to_owned());
                break;
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && !said.is_empty() => break,
            Err(_) => {
                said.push("cut".to_owned());
                break;
            }
        }
    }
    close(reader.get_mut());
    said.join(" ")
}

/// The next answer; `None`: the connection has ended before it.
fn answer(reader: &mut impl BufRead, head_only: bool) -> io::Result<Option<(u16, Vec<u8>)>> {
    let Some(first) = line(reader)? else { return Ok(None) };
    let torn = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let status: u16 = first.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| io::Error::other(first))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let line = line(reader)?.ok_or_else(torn)?;
        let (name, value) = match line.split_once(':') {
            Some((name, value)) => (name.to_ascii_lowercase(), value.trim().to_owned()),
            None if line.is_empty() => break,
            None => return Err(io::Error::other(line)),
        };
        match name.as_str() {
            "content-length" => length = value.parse::<usize>().ok(),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if head_only || status < 200 || status == 204 || status == 304 {
        return Ok(Some((status, body)));
    }
    if chunked {
        loop {
            let size = line(reader)?.ok_or_else(torn)?;
            let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
            let mut piece = vec![0; size + 2];
            reader.read_exact(&mut piece)?;
            body.extend_from_slice(&piece[..size]);
            if size == 0 {
                return Ok(Some((status, body)));
            }
        }
    }
    match length {
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        None => {
            reader.read_to_end(&mut body)?;
        }
    }
    Ok(Some((status, body)))
}

fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()))
}

/// What nginx 1.22 answers where it is not what Go does, seen by hand: as a proxy in front of another nginx that answers at
/// once. No test holds it to that.
const NGINX: [(&str, &str); 39] = [
    ("absolute form, a user", "400"),
    ("authority form", "400"),
    ("CONNECT", "400"),
    ("OPTIONS *", "400"),
    ("GET *", "400"),
    ("a line of 100,000 bytes", "414"),
    ("NUL, encoded", "400"),
    ("an empty Host", "400"),
    ("a user in the Host", "200 keep"),
    ("one length twice", "400"),
    ("length and chunked", "400"),
    ("chunked and length", "400"),
    ("chunked twice", "400"),
    ("a vertical tab before chunked", "501"),
    ("chunked in HTTP/1.0", "400"),
    ("a folded line", "400"),
    ("a control byte in a value", "200 keep"),
    ("non-ASCII in a name", "200 keep"),
    ("no colon", "200 keep"),
    ("100,000 bytes in one field", "400"),
    ("100,000 bytes in 200 fields", "400"),
    ("a blank line before", "200 keep"),
    ("a method in lower case", "400"),
    ("two blanks", "200 keep"),
    ("a blank at the end", "200 keep"),
    ("HTTP/0.9", "cut"),
    ("HTTP/2's preface", "400"),
    ("LF alone in an extension", "hang"),
    ("an extension of 10,000 bytes", "200 keep"),
    ("LF alone after a size", "200 keep"),
    ("no last line", "200 hang"),
    ("trailers of 100,000 bytes", "200 keep"),
    ("a trailer without a colon", "200 keep"),
    ("length, then chunked (CL.TE)", "400"),
    ("a coding that only one knows", "400"),
    ("a length hidden in a folded line", "400"),
    ("a body too long for its length", "200 400"),
    ("100-continue without a body", "100 200 keep"),
    ("another expectation", "200 keep"),
];

/// The table as it is printed.
pub fn show(case: &Case, ours: &str) -> String {
    let sent: String = String::from_utf8_lossy(&case.send).escape_debug().take(70).collect();
    let why = if case.why.is_empty() { String::new() } else { format!("  ({})", case.why) };
    let nginx = NGINX.iter().find(|(name, _)| *name == case.name).map_or(case.go, |(_, said)| said);
    format!("{:34} {ours:13} Go: {:13} nginx: {nginx:13} up: {:24} {sent}{why}", case.name, case.go, case.saw)
}

fn case(
    name: &'static str,
    send: impl AsRef<[u8]>,
    ours: &'static str,
    saw: &'static str,
    go: &'static str,
    why: &'static str,
) -> Case {
    Case { name, send: send.as_ref().to_vec(), ours, saw, go, why }
}

/// A GET of `/x` with these header lines.
fn get(lines: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /x HTTP/1.1\r\nHost: h\r\n", lines.as_ref(), b"\r\n"].concat()
}

/// A GET of this target.
fn target(target: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat()
}

/// A POST to `/x` with these header lines, and what follows.
fn post(lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"POST /x HTTP/1.1\r\nHost: h\r\n", lines.as_bytes(), b"\r\n", body.as_ref()].concat()
}

fn chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

/// All cases.
pub fn table() -> Vec<Case> {
    [targets(), hosts(), lengths(), codings(), fields(), lines(), chunks(), smuggling(), connections()]
        .into_iter()
        .flatten()
        .collect()
}

fn targets() -> Vec<Case> {
    let long = format!("/{}", "a".repeat(100_000));
    vec![
        case("a plain request", target("/x"), "200 keep", "GET /x", "200 keep", ""),
        case("absolute form", target("http://h/x"), "200 keep", "GET /x", "200 keep", ""),
        case("absolute form, another host", target("http://evil/x"), "200 keep", "GET /x", "200 keep", ""),
        case(
            "absolute form, a user",
            target("https://u:p@h/x"),
            "400",
            "",
            "200 keep",
            "RFC 9110 section 4.2.4: it should be treated as an error",
        ),
        case("absolute form, no path", target("http://h?q=1"), "200 keep", "GET /?q=1", "200 keep", ""),
        case("absolute form, another scheme", target("ftp://h/x"), "400", "", "200 keep", "no client of ours means it"),
        case(
            "authority form",
            target("h:80"),
            "400",
            "",
            "200 keep",
            "it is no path; Go hands it to the handler, and kube-apiserver has nothing there",
        ),
        case(
            "CONNECT",
            "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n",
            "405",
            "",
            "200 keep",
            "there is nothing to connect to; kube-apiserver answers 404",
        ),
        case(
            "OPTIONS *",
            "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
            "400 keep",
            "",
            "200 keep",
            "the upstream is asked for paths; Go answers it itself",
        ),
        case("GET *", target("*"), "400", "", "200 keep", "RFC 9112 section 3.2.4: with OPTIONS only"),
        case("no slash", target("x"), "400", "", "400", ""),
        case(
            "a line of 100,000 bytes",
            target(long),
            "414",
            "",
            "200 keep",
            "64 KiB are enough, Go takes 1 MiB: memory is what a node lacks",
        ),
        case(
            "a fragment",
            target("/x#f"),
            "400",
            "",
            "200 keep",
            "it is not sent (RFC 9112 section 3.2); who cuts it off sees another path",
        ),
        case("a blank in the path", target("/a b"), "400", "", "400", ""),
        case("a control byte in the path", target("/a\x01b"), "400", "", "400", ""),
        case("non-UTF-8 in the path", target(b"/\xff"), "400", "", "200 keep", "RFC 3986: it is to be percent-encoded"),
        case(
            "non-UTF-8, encoded",
            target("/%ff"),
            "400 keep",
            "",
            "200 keep",
            "Kubernetes has no such names; it would not be itself in the record",
        ),
        case("NUL, encoded", target("/a%00b"), "200 keep", "GET /a%00b", "200 keep", ""),
        case("..", target("/a/../b"), "200 keep", "GET /a/../b", "200 keep", ""),
        case(".., encoded", target("/a/%2e%2e/b"), "200 keep", "GET /a/%2e%2e/b", "200 keep", ""),
        case("two slashes", target("//a//b"), "200 keep", "GET //a//b", "200 keep", ""),
        case("a slash, encoded", target("/a%2fb"), "200 keep", "GET /a%2fb", "200 keep", ""),
        case(
            "a bad encoding",
            target("/a%zz"),
            "400 keep",
            "",
            "400",
            "the bytes are HTTP, so that the connection goes on",
        ),
        case(
            "half an encoding",
            target("/a%4"),
            "400 keep",
            "",
            "400",
            "the bytes are HTTP, so that the connection goes on",
        ),
        case(
            "a backslash",
            target("/a\\b"),
            "400 keep",
            "",
            "200 keep",
            "RFC 3986: it is to be percent-encoded, and the http crate will not send it",
        ),
        case(
            "a bad encoding in the query",
            target("/x?a=%zz"),
            "400 keep",
            "",
            "200 keep",
            "Go drops the parameter without a word: another question than was asked",
        ),
        case(
            "a semicolon in the query",
            target("/x?watch=1;b=2"),
            "400 keep",
            "",
            "200 keep",
            "Go drops the parameter without a word: another question than was asked",
        ),
        case("odd but good queries", target("/x?a=b?c=d&&=&%00"), "200 keep", "GET /x?a=b?c=d&&=&%00", "200 keep", ""),
        case(
            "angle brackets in the query",
            target("/x?a=<b>"),
            "400 keep",
            "",
            "200 keep",
            "RFC 3986: they are to be percent-encoded, and the http crate will not send them",
        ),
    ]
}

fn hosts() -> Vec<Case> {
    let with = |host: &str| format!("GET /x HTTP/1.1\r\n{host}\r\n");
    vec![
        case("no Host", with(""), "400", "", "400", ""),
        case("no Host in HTTP/1.0", "GET /x HTTP/1.0\r\n\r\n", "200", "GET /x", "200", ""),
        case("two Hosts", with("Host: h\r\nHost: h\r\n"), "400", "", "400", ""),
        case("an empty Host", with("Host:\r\n"), "200 keep", "GET /x", "200 keep", ""),
        case("a blank in the Host", with("Host: a b\r\n"), "400", "", "400", ""),
        case("a path in the Host", with("Host: h/y\r\n"), "400", "", "400", ""),
        case("a user in the Host", with("Host: u@h\r\n"), "400", "", "400", ""),
    ]
}

fn lengths() -> Vec<Case> {
    let with = |lines: &str| post(lines, "abc");
    vec![
        case("a length", with("Content-Length: 3\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case("two lengths", with("Content-Length: 3\r\nContent-Length: 4\r\n"), "400", "", "400", ""),
        case(
            "one length twice",
            with("Content-Length: 3\r\nContent-Length: 3\r\n"),
            "400",
            "",
            "200 keep",
            "RFC 9110 section 8.6 leaves the choice; no client of ours sends two",
        ),
        case("a list of lengths", with("Content-Length: 3, 3\r\n"), "400", "", "400", ""),
        case("a signed length", with("Content-Length: +3\r\n"), "400", "", "400", ""),
        case("a negative length", with("Content-Length: -3\r\n"), "400", "", "400", ""),
        case("a hexadecimal length", with("Content-Length: 0x3\r\n"), "400", "", "400", ""),
        case("a length with a line between", with("Content-Length: 1_0\r\n"), "400", "", "400", ""),
        case("no number", with("Content-Length:\r\n"), "400", "", "400", ""),
        case("a length beyond 64 bits", with("Content-Length: 99999999999999999999\r\n"), "400", "", "400", ""),
        case("leading zeros", with("Content-Length: 0003\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case(
            "a GET with a body",
            get("Content-Length: 3\r\n").iter().chain(b"abc").copied().collect::<Vec<u8>>(),
            "200 keep",
            "GET /x abc",
            "200 keep",
            "",
        ),
        case(
            "a HEAD with a body",
            "HEAD /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
            "200 keep",
            "HEAD /x abc",
            "200 keep",
            "",
        ),
        case("a HEAD", "HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n", "200 keep", "HEAD /x", "200 keep", ""),
    ]
}

fn codings() -> Vec<Case> {
    let with = |lines: &str| post(lines, "3\r\nabc\r\n0\r\n\r\n");
    vec![
        case("chunked", with("Transfer-Encoding: chunked\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case("CHUNKED", with("Transfer-Encoding: CHUNKED\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case(
            "length and chunked",
            with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            "400",
            "",
            "200 keep",
            "RFC 9112 section 6.1: it ought to be handled as an error",
        ),
        case(
            "chunked and length",
            with("Transfer-Encoding: chunked\r\nContent-Length: 13\r\n"),
            "400",
            "",
            "200 keep",
            "RFC 9112 section 6.1: it ought to be handled as an error",
        ),
        case(
            "gzip",
            with("Transfer-Encoding: gzip\r\n"),
            "400",
            "",
            "501",
            "refused either way; 400 is for all that is wrong with it",
        ),
        case("gzip, chunked", with("Transfer-Encoding: gzip, chunked\r\n"), "400", "", "501", "refused either way"),
        case(
            "chunked, chunked",
            with("Transfer-Encoding: chunked, chunked\r\n"),
            "400",
            "",
            "501",
            "refused either way",
        ),
        case(
            "chunked twice",
            with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            "400",
            "",
            "501",
            "refused either way",
        ),
        case(
            "identity",
            with("Transfer-Encoding: identity\r\n"),
            "400",
            "",
            "501",
            "refused either way; it was taken out of HTTP in 2014",
        ),
        case("a vertical tab before chunked", with("Transfer-Encoding: \x0bchunked\r\n"), "400", "", "400", ""),
        case("xchunked", with("Transfer-Encoding: xchunked\r\n"), "400", "", "501", "refused either way"),
        case("no coding", with("Transfer-Encoding:\r\n"), "400", "", "501", "refused either way"),
        case(
            "chunked in HTTP/1.0",
            "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
            "",
            "200",
            "RFC 9112 section 6.1: it is to be treated as faulty",
        ),
        case("a blank before the colon", with("Transfer-Encoding : chunked\r\n"), "400", "", "400", ""),
    ]
}

fn fields() -> Vec<Case> {
    let many =
        |count, length| get((0..count).map(|i| format!("X-{i}: {}\r\n", "v".repeat(length))).collect::<String>());
    vec![
        case(
            "a folded line",
            get("X: a\r\n b\r\n"),
            "400",
            "",
            "200 keep",
            "RFC 9112 section 5.2: a server must reject it, or make it one line; two readers see two things",
        ),
        case("a folded first line", "GET /x HTTP/1.1\r\n Host: h\r\n\r\n", "400", "", "400", ""),
        case(
            "LF alone after a line",
            get("X: a\nY: b\r\n"),
            "400",
            "",
            "200 keep",
            "RFC 9112 section 2.2 leaves the choice; two readers see two things",
        ),
        case(
            "LF alone everywhere",
            "GET /x HTTP/1.1\nHost: h\n\n",
            "400",
            "",
            "200 keep",
            "RFC 9112 section 2.2 leaves the choice; two readers see two things",
        ),
        case("CR alone in a value", get("X: a\rY: b\r\n"), "400", "", "400", ""),
        case("NUL in a value", get("X: a\0b\r\n"), "400", "", "400", ""),
        case("a control byte in a value", get("X: a\x01b\r\n"), "400", "", "400", ""),
        case("non-ASCII in a value", get(b"X: \xe9\r\n"), "200 keep", "GET /x", "200 keep", ""),
        case("NUL in a name", get("X\0: a\r\n"), "400", "", "400", ""),
        case("a blank in a name", get("X Y: a\r\n"), "400", "", "400", ""),
        case("non-ASCII in a name", get(b"X\xe9: a\r\n"), "400", "", "400", ""),
        case("no name", get(": a\r\n"), "400", "", "400", ""),
        case("no colon", get("X\r\n"), "400", "", "400", ""),
        case("300 fields", many(300, 1), "431", "", "200 keep", "256 are enough"),
        case(
            "100,000 bytes in one field",
            many(1, 100_000),
            "431",
            "",
            "200 keep",
            "64 KiB are enough, Go takes 1 MiB",
        ),
        case("100,000 bytes in 200 fields", many(200, 500), "431", "", "200 keep", "64 KiB are enough, Go takes 1 MiB"),
    ]
}

fn lines() -> Vec<Case> {
    let first = |line: &str| format!("{line}\r\nHost: h\r\n\r\n");
    vec![
        case(
            "a blank line before",
            "\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
            "200 keep",
            "GET /x",
            "400",
            "RFC 9112 section 2.2: a server should ignore it",
        ),
        case("a method in lower case", first("get /x HTTP/1.1"), "200 keep", "get /x", "200 keep", ""),
        case("an unknown method", first("FOO /x HTTP/1.1"), "200 keep", "FOO /x", "200 keep", ""),
        case("a method that is no token", first("G@T /x HTTP/1.1"), "400", "", "400", ""),
        case("no method", first(" /x HTTP/1.1"), "400", "", "400", ""),
        case("two blanks", first("GET  /x HTTP/1.1"), "400", "", "400", ""),
        case("a tab", first("GET\t/x HTTP/1.1"), "400", "", "400", ""),
        case("a blank at the end", first("GET /x HTTP/1.1 "), "400", "", "400", ""),
        case("HTTP/0.9", "GET /x\r\n\r\n", "400", "", "400", ""),
        case("HTTP/1.2", first("GET /x HTTP/1.2"), "505", "", "200 keep", "there is none; Go takes any 1.x"),
        case("HTTP/2.0", first("GET /x HTTP/2.0"), "505", "", "505", ""),
        case(
            "HTTP/2's preface",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "505",
            "",
            "200",
            "HTTP/2 is not spoken here; Go hands the preface to the handler as a request",
        ),
        case("http in lower case", first("GET /x http/1.1"), "400", "", "400", ""),
        case("HTTP/1.0", "GET /x HTTP/1.0\r\nHost: h\r\n\r\n", "200", "GET /x", "200", ""),
        case(
            "HTTP/1.0, keep-alive",
            "GET /x HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n",
            "200 keep",
            "GET /x",
            "200 keep",
            "",
        ),
        case("a TLS record", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400", "", "400", ""),
    ]
}

fn chunks() -> Vec<Case> {
    vec![
        case("an extension", chunked("3;a=\"b c\"\r\nabc\r\n0;z\r\n\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case("LF alone in an extension", chunked("3;\nxx\r\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case(
            "an extension of 10,000 bytes",
            chunked(format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(10_000))),
            "400",
            "",
            "400",
            "",
        ),
        case("leading zeros in a size", chunked("0003\r\nabc\r\n0\r\n\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case("a size beyond 64 bits", chunked("fffffffffffffffff\r\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case("a negative size", chunked("-3\r\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case("a size with 0x", chunked("0x3\r\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case("a blank before a size", chunked(" 3\r\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case(
            "a blank after a size",
            chunked("3 \r\nabc\r\n0\r\n\r\n"),
            "400",
            "",
            "200 keep",
            "RFC 9112 section 7.1 has none there; two readers see two things",
        ),
        case("no size", chunked("\r\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case("LF alone after a size", chunked("3\nabc\r\n0\r\n\r\n"), "400", "", "400", ""),
        case("a chunk longer than its size", chunked("3\r\nabcdef\r\n0\r\n\r\n"), "400", "", "400", ""),
        case("no CR LF after a chunk", chunked("3\r\nabc0\r\n\r\n"), "400", "", "400", ""),
        case("no last line", chunked("3\r\nabc\r\n0\r\n"), "400", "", "400", ""),
        case("trailers", chunked("3\r\nabc\r\n0\r\nX: y\r\nA-B: c\r\n\r\n"), "200 keep", "POST /x abc", "200 keep", ""),
        case(
            "forbidden trailers",
            chunked(
                "3\r\nabc\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: i\r\nAuthorization: Bearer t\r\n\r\n",
            ),
            "200 keep",
            "POST /x abc",
            "200 keep",
            "",
        ),
        case(
            "trailers of 100,000 bytes",
            chunked(format!("3\r\nabc\r\n0\r\nX: {}\r\n\r\n", "y".repeat(100_000))),
            "400",
            "",
            "400",
            "",
        ),
        case("a trailer without a colon", chunked("3\r\nabc\r\n0\r\nX\r\n\r\n"), "400", "", "400", ""),
    ]
}

fn smuggling() -> Vec<Case> {
    vec![
        case(
            "a request as a body",
            post("Content-Length: 39\r\n", "GET /smuggled HTTP/1.1\r\nHost: h\r\nX: y\r\n"),
            "200 keep",
            "POST /x GET /smuggled HTTP/1.1\r\nHost: h\r\nX: y\r\n",
            "200 keep",
            "",
        ),
        case(
            "length, then chunked (CL.TE)",
            post("Content-Length: 30\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: "),
            "400",
            "",
            "200 200",
            "Go serves what is smuggled as a second request",
        ),
        case(
            "chunked, then length (TE.CL)",
            post(
                "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
                "1c\r\nGET /smuggled HTTP/1.1\r\nX: \r\n0\r\n\r\n",
            ),
            "400",
            "",
            "400",
            "",
        ),
        case(
            "a coding that only one knows",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\nX: "),
            "400",
            "",
            "501",
            "refused either way",
        ),
        case(
            "a field that looks like a coding",
            post("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", "0\r\n\r\n"),
            "200 keep",
            "POST /x 0\r\n\r\n",
            "200 keep",
            "",
        ),
        case(
            "a coding hidden by a bare CR",
            post("Content-Length: 5\r\nX: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            "400",
            "",
            "400",
            "",
        ),
        case(
            "a length hidden in a folded line",
            post("X: y\r\n Content-Length: 39\r\n", "GET /smuggled HTTP/1.1\r\nHost: h\r\nX: y\r\n"),
            "400",
            "",
            "200 400",
            "Go takes the line for a part of X, and then the body for a request",
        ),
        case("two good ones", [get(""), get("")].concat(), "200 200 keep", "GET /x | GET /x", "200 200 keep", ""),
        case("a good one and a bad one", [get(""), target("/a b")].concat(), "200 400", "GET /x", "200 400", ""),
        case(
            "a body too long for its length",
            post("Content-Length: 3\r\n", "abcdef"),
            "200 200",
            "POST /x abc | defGET /probe",
            "200 200",
            "",
        ),
    ]
}

fn connections() -> Vec<Case> {
    vec![
        case("close", get("Connection: close\r\n"), "200", "GET /x", "200", ""),
        case("close among others", get("Connection: x, CLOSE ,y\r\n"), "200", "GET /x", "200", ""),
        case(
            "keep-alive and close",
            get("Connection: keep-alive\r\nConnection: close\r\n"),
            "200",
            "GET /x",
            "200",
            "",
        ),
        case(
            "Connection names Host",
            get("Connection: host, content-length, authorization\r\n"),
            "200 keep",
            "GET /x",
            "200 keep",
            "",
        ),
        case(
            "an upgrade to junk",
            get("Connection: upgrade\r\nUpgrade: junk\r\n"),
            "200 keep",
            "GET /x",
            "200 keep",
            "",
        ),
        case("Upgrade without Connection", get("Upgrade: websocket\r\n"), "200 keep", "GET /x", "200 keep", ""),
        case(
            "an upgrade to HTTP/2",
            get("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
            "200 keep",
            "GET /x",
            "200 keep",
            "",
        ),
        case(
            "100-continue, body at once",
            post("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc"),
            "200 keep",
            "POST /x abc",
            "100 200 keep",
            "RFC 9110 section 10.1.1: 100 may be left out when the body has come",
        ),
        case("100-continue without a body", get("Expect: 100-continue\r\n"), "200 keep", "GET /x", "200 keep", ""),
        case("another expectation", get("Expect: coffee\r\n"), "417", "", "417", ""),
        case(
            "two expectations",
            get("Expect: 100-continue, coffee\r\n"),
            "417",
            "",
            "200 keep",
            "RFC 9110 section 10.1.1: 417 for what is not known; Go looks for 100-continue only",
        ),
    ]
}
