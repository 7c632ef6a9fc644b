use super::*;

fn blank() -> RequestHead {
    RequestHead { method: String::new(), target: String::new(), headers: Vec::new(), body: BodyLength::None }
}

fn parsed(bytes: &str) -> Result<(RequestHead, Terms), Refusal> {
    let mut head = blank();
    let end = Scanner::default().scan(bytes.as_bytes())?.expect("a whole head");
    assert_eq!(end, bytes.len(), "{bytes:?}");
    parse(bytes.as_bytes(), &mut head).map(|terms| (head, terms))
}

fn refused(bytes: &str) -> Refusal {
    match parsed(bytes) {
        Err(refusal) => refusal,
        Ok((head, _)) => panic!("{bytes:?} was taken for {head:?}"),
    }
}

#[test]
fn a_plain_request() {
    let (head, terms) =
        parsed("GET /api/v1/pods?limit=500&x=%2F HTTP/1.1\r\nHost: edge:51003\r\nAccept:  a/b , c/d \r\nX:\r\n\r\n")
            .unwrap();
    assert_eq!(head.method, "GET");
    assert_eq!(head.target, "/api/v1/pods?limit=500&x=%2F");
    assert_eq!(head.body, BodyLength::None);
    let fields: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(fields, [("Host", &b"edge:51003"[..]), ("Accept", b"a/b , c/d"), ("X", b"")]);
    assert_eq!(terms, Terms { http10: false, keep_alive: true, expect_continue: false });
}

#[test]
fn targets() {
    let table = [
        ("GET", "/", Ok("/")),
        ("GET", "//double//slash", Ok("//double//slash")),
        ("GET", "/a?b=c?d", Ok("/a?b=c?d")),
        ("OPTIONS", "*", Ok("*")),
        ("GET", "*", Err(Refusal::Target)),
        ("GET", "https://host:1/a?b", Ok("/a?b")),
        ("GET", "HTTP://host", Ok("/")),
        ("GET", "http://host?q=/x", Ok("/?q=/x")),
        ("GET", "http:///a", Err(Refusal::Target)),
        ("GET", "http://", Err(Refusal::Target)),
        ("GET", "ftp://host/a", Err(Refusal::Target)),
        ("GET", "a/b", Err(Refusal::Target)),
        ("GET", "é", Err(Refusal::Target)),
        ("GET", "/é", Err(Refusal::Target)),
        ("GET", "/a#b", Err(Refusal::Target)),
        ("GET", "/a\u{1}b", Err(Refusal::RequestLine)),
        ("GET", "/a\u{7f}b", Err(Refusal::RequestLine)),
        ("GET", "/a b", Err(Refusal::RequestLine)),
        ("CONNECT", "host:443", Err(Refusal::Connect)),
        ("CONNECT", "/", Err(Refusal::Connect)),
    ];
    for (method, target, expected) in table {
        let got = parsed(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(got.map(|(head, _)| head.target), expected.map(str::to_owned), "{method} {target}");
    }
}

#[test]
fn framing() {
    let table = [
        ("", Ok(BodyLength::None)),
        ("Content-Length: 0\r\n", Ok(BodyLength::Exact(0))),
        ("content-length: 18446744073709551615\r\n", Ok(BodyLength::Exact(u64::MAX))),
        ("Content-Length: 18446744073709551616\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: +5\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: -5\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: 0x5\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: 5 5\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: 5, 5\r\n", Err(Refusal::ContentLength)),
        ("Content-Length:\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Err(Refusal::ContentLength)),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(Refusal::ContentLength)),
        ("Transfer-Encoding: chunked\r\n", Ok(BodyLength::Chunked)),
        ("TRANSFER-ENCODING: Chunked\r\n", Ok(BodyLength::Chunked)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(Refusal::TransferEncoding)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(Refusal::TransferEncoding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Refusal::TransferEncoding)),
        ("Transfer-Encoding: identity\r\n", Err(Refusal::TransferEncoding)),
        ("Transfer-Encoding: xchunked\r\n", Err(Refusal::TransferEncoding)),
        ("Transfer-Encoding:\r\n", Err(Refusal::TransferEncoding)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(Refusal::TwoFramings)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(Refusal::TwoFramings)),
        ("Content-Length : 5\r\n", Err(Refusal::Field)),
        ("Transfer-Encoding : chunked\r\n", Err(Refusal::Field)),
        ("Transfer-Encoding:\r\n chunked\r\n", Err(Refusal::Field)),
        ("Transfer-Encoding: \u{b}chunked\r\n", Err(Refusal::Field)),
        ("X: a\r\n folded\r\n", Err(Refusal::Field)),
        ("X: a\rb\r\n", Err(Refusal::Field)),
        ("X: a\0b\r\n", Err(Refusal::Field)),
        ("X: a\nb: c\r\n", Err(Refusal::BareLineFeed)),
        ("No colon\r\n", Err(Refusal::Field)),
        (": no name\r\n", Err(Refusal::Field)),
        (" X: a\r\n", Err(Refusal::Field)),
    ];
    for (fields, expected) in table {
        let got = parsed(&format!("PUT / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"));
        assert_eq!(got.map(|(head, _)| head.body), expected, "{fields:?}");
    }
    assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Refusal::TransferEncoding);
    assert_eq!(refused("POST / HTTP/1.1\r\n folded\r\nHost: h\r\n\r\n"), Refusal::Field);
}

#[test]
fn versions_and_request_lines() {
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\n"), Refusal::Version);
    assert_eq!(refused("GET / HTTP/1.2\r\nHost: h\r\n\r\n"), Refusal::Version);
    assert_eq!(refused("GET / http/1.1\r\nHost: h\r\n\r\n"), Refusal::RequestLine);
    assert_eq!(refused("GET  / HTTP/1.1\r\nHost: h\r\n\r\n"), Refusal::RequestLine);
    assert_eq!(refused("GET /\r\nHost: h\r\n\r\n"), Refusal::RequestLine);
    assert_eq!(refused("G(T / HTTP/1.1\r\nHost: h\r\n\r\n"), Refusal::RequestLine);
    assert!(parsed("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").is_ok(), "blank lines before it are ignored");
}

#[test]
fn hosts() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Refusal::Host);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n"), Refusal::Host);
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nhost: a\r\n\r\n"), Refusal::Host);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), Refusal::Host);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), Refusal::Host);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"), Refusal::Host);
    assert!(parsed("GET / HTTP/1.1\r\nHost: [::1]:443\r\n\r\n").is_ok());
    assert!(parsed("GET / HTTP/1.1\r\nHost:\r\n\r\n").is_ok());
    assert!(parsed("GET / HTTP/1.0\r\n\r\n").is_ok());
}

#[test]
fn terms() {
    let table = [
        ("HTTP/1.1", "", (false, true, false)),
        ("HTTP/1.1", "Connection: close\r\n", (false, false, false)),
        ("HTTP/1.1", "Connection: Upgrade, Close\r\n", (false, false, false)),
        ("HTTP/1.1", "Connection: closed\r\n", (false, true, false)),
        ("HTTP/1.1", "Connection: keep-alive\r\nConnection: close\r\n", (false, false, false)),
        ("HTTP/1.0", "", (true, false, false)),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", (true, true, false)),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n", (true, false, false)),
        ("HTTP/1.1", "Expect: 100-Continue\r\nContent-Length: 1\r\n", (false, true, true)),
        ("HTTP/1.1", "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", (false, true, true)),
        ("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", (false, true, false)),
        ("HTTP/1.1", "Expect: 100-continue\r\n", (false, true, false)),
        ("HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", (true, false, false)),
    ];
    for (version, fields, (http10, keep_alive, expect_continue)) in table {
        let (_, terms) = parsed(&format!("PUT / {version}\r\nHost: h\r\n{fields}\r\n")).unwrap();
        assert_eq!(terms, Terms { http10, keep_alive, expect_continue }, "{version} {fields:?}");
    }
    assert_eq!(refused("PUT / HTTP/1.1\r\nHost: h\r\nExpect: 200-maybe\r\n\r\n"), Refusal::Expectation);
}

#[test]
fn field_counts() {
    let request = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    let (head, _) = parsed(&request(MAX_FIELDS)).unwrap();
    assert_eq!(head.headers.len(), MAX_FIELDS);
    assert_eq!(refused(&request(MAX_FIELDS + 1)), Refusal::TooManyFields);
}

#[test]
fn a_head_written_over_an_older_one_keeps_nothing_of_it() {
    let mut head = blank();
    let long = "POST /long/path HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 22\r\nContent-Length: 7\r\n\r\n";
    let short = "GET / HTTP/1.1\r\nC: 3\r\nHost: other\r\n\r\n";
    for bytes in [long, short, long] {
        parse(bytes.as_bytes(), &mut head).unwrap();
        assert_eq!(head, parsed(bytes).unwrap().0);
    }
}

#[test]
fn the_scanner_finds_the_end_in_any_pieces() {
    let bytes = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.1\r\n\r\n";
    let end = bytes.len() - b"GET /next HTTP/1.1\r\n\r\n".len();
    assert_eq!(Scanner::default().scan(bytes), Ok(Some(end)));
    for split in 0..end {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(&bytes[..split]), Ok(None), "{split}");
        assert_eq!(scanner.scan(&bytes[split..]), Ok(Some(end - split)), "{split}");
    }
    let mut scanner = Scanner::default();
    for (index, byte) in bytes[..end].iter().enumerate() {
        let expected = (index == end - 1).then_some(1);
        assert_eq!(scanner.scan(&[*byte]), Ok(expected), "{index}");
    }
}

#[test]
fn the_scanner_refuses_bare_line_feeds_as_soon_as_they_come() {
    for bytes in ["GET / HTTP/1.1\n", "\n", "GET / HTTP/1.1\r\nHost: h\n\n", "GET / HTTP/1.1\r\nHost: h\r\n\n"] {
        assert_eq!(Scanner::default().scan(bytes.as_bytes()), Err(Refusal::BareLineFeed), "{bytes:?}");
    }
    let mut scanner = Scanner::default();
    assert_eq!(scanner.scan(b"GET / HTTP/1.1"), Ok(None));
    assert_eq!(scanner.scan(b"\n"), Err(Refusal::BareLineFeed));
}

#[test]
fn what_is_too_large_depends_on_the_line() {
    let mut scanner = Scanner::default();
    scanner.scan(b"\r\nGET /aaaaa").unwrap();
    assert_eq!(scanner.too_large(), Refusal::TargetTooLong);
    scanner.scan(b" HTTP/1.1\r\nX: ").unwrap();
    assert_eq!(scanner.too_large(), Refusal::HeadTooLarge);
}
