//! The table of abuse against the real binary, and what its columns cannot say: header fields, slowness, and an upstream
//! that is as bad.

use crate::support::abuse::{self, play};
use crate::support::proxy::{ADMIN, NODE};
use crate::support::upstream::{Received, Wire};
use crate::{MAPS, Scene, list};
use flate2::{Compression, write::GzEncoder};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Says what it has been asked.
fn echo(request: &Received, wire: &mut Wire) -> io::Result<()> {
    if request.method == "HEAD" {
        return wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n");
    }
    wire.answer(200, "text/plain", said(request))
}

fn said(request: &Received) -> String {
    let body = String::from_utf8_lossy(&request.body);
    format!("{} {} {body}", request.method, request.target).trim_end_matches(' ').to_owned()
}

#[test]
fn each_case_is_answered_as_the_table_says() {
    let scene = Scene::scripted(&[], echo);
    let cases = abuse::table();
    let mut wrong = Vec::new();
    for case in &cases {
        let before = scene.upstream.received().len();
        let client = scene.proxy.client(Some(NODE));
        client.patience(Duration::from_secs(10));
        let ours = play(client.into_stream(), &case.send, |_| ());
        let saw: Vec<String> =
            scene.upstream.received()[before..].iter().map(said).filter(|s| s != "GET /probe").collect();
        let saw = saw.join(" | ");
        println!("{}", abuse::show(case, &ours));
        if (ours.as_str(), saw.as_str()) != (case.ours, case.saw) {
            wrong.push(format!(
                "{}: expected {:?}, came {ours:?}; to the upstream {:?}, went {saw:?}",
                case.name, case.ours, case.saw
            ));
        }
        if case.ours != case.go && case.why.is_empty() {
            wrong.push(format!("{}: why it is not {:?} is not said", case.name, case.go));
        }
    }
    println!("{} cases", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(scene.proxy.metric("lite_apiserver_panics_total"), 0);
}

/// How an upstream leaves a connection.
#[derive(Clone, Copy)]
enum Then {
    Stay,
    /// TCP's end without TLS' goodbye, as when something on the way cuts it.
    Cut,
    Goodbye,
}

/// What an upstream may send, and what comes of it.
struct Answer {
    name: &'static str,
    send: Vec<u8>,
    /// What becomes of the connection after it.
    then: Then,
    /// What the client gets: the status; `whole` where it is the list, `empty`, `torn`, or what else the body is.
    client: &'static str,
    /// Whether it is served once the cable is cut.
    recorded: bool,
}

fn answers() -> Vec<Answer> {
    use Then::{Cut, Goodbye, Stay};
    let body = list(100, &["one", "two"]);
    let (n, short) = (body.len(), body.len() - 20);
    let ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
    let gz = gzip(body.as_bytes());
    let gzipped = |bytes: &[u8]| {
        [format!("{ok}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bytes.len()).as_bytes(), bytes].concat()
    };
    let framed = |fields: &str, rest: &str| format!("{ok}{fields}\r\n{rest}").into_bytes();
    let chunks = format!("{n:x}\r\n{body}\r\n0\r\n\r\n");
    let long = "v".repeat(100_000);
    let many: String = (0..1000).map(|i| format!("X-{i}: v\r\n")).collect();
    let answer = |name, send, then, client, recorded| Answer { name, send, then, client, recorded };
    let length = format!("Content-Length: {n}\r\n");
    let with_length = |fields: &str| framed(&format!("{fields}{length}"), &body);
    let status = |line: &str| format!("{line}\r\nContent-Type: application/json\r\n{length}\r\n{body}").into_bytes();
    vec![
        answer("a length", with_length(""), Stay, "200 whole", true),
        answer("chunks", framed("Transfer-Encoding: chunked\r\n", &chunks), Stay, "200 whole", true),
        answer("neither, then the end", framed("", &body), Goodbye, "200 whole", true),
        // Whoever cuts TCP could cut it anywhere: only TLS' goodbye says that this was all.
        answer("neither, then TCP's end", framed("", &body), Cut, "200 torn", false),
        answer(
            "HTTP/1.0 without a length",
            format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}").into_bytes(),
            Goodbye,
            "200 whole",
            true,
        ),
        answer(
            "length and chunks",
            framed(&format!("{length}Transfer-Encoding: chunked\r\n"), &chunks),
            Cut,
            "200 whole",
            true,
        ),
        answer("two lengths", framed(&format!("{length}Content-Length: 5\r\n"), &body), Cut, "502", false),
        answer("no number", framed("Content-Length: abc\r\n", &body), Cut, "502", false),
        answer("a negative length", framed("Content-Length: -5\r\n", &body), Cut, "502", false),
        answer(
            "a body shorter than its length",
            framed(&format!("Content-Length: {}\r\n", n + 9), &body),
            Cut,
            "200 torn",
            false,
        ),
        answer("a body longer than its length", framed(&length, &format!("{body}{poison}")), Stay, "200 whole", true),
        answer(
            "a length in the midst of the list",
            framed(&format!("Content-Length: {short}\r\n"), &body),
            Stay,
            "200 other",
            false,
        ),
        answer(
            "a chunk of no size",
            framed("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n"),
            Cut,
            "cut",
            false,
        ),
        answer(
            "a chunk of a negative size",
            framed("Transfer-Encoding: chunked\r\n", "-2\r\n{}\r\n0\r\n\r\n"),
            Cut,
            "cut",
            false,
        ),
        answer(
            "a chunk beyond 64 bits",
            framed("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\n{}"),
            Cut,
            "cut",
            false,
        ),
        answer(
            "chunks that end early",
            framed("Transfer-Encoding: chunked\r\n", &format!("{n:x}\r\n{body}\r\n")),
            Cut,
            "200 torn",
            false,
        ),
        answer(
            "a chunk longer than its size",
            framed("Transfer-Encoding: chunked\r\n", &format!("{short:x}\r\n{body}\r\n0\r\n\r\n")),
            Cut,
            "cut",
            false,
        ),
        answer("an unknown coding", framed("Transfer-Encoding: gzip\r\n", &body), Goodbye, "502", false),
        answer(
            "chunks in HTTP/1.0",
            [b"HTTP/1.0 200 OK\r\n", &framed("Transfer-Encoding: chunked\r\n", &chunks)[17..]].concat(),
            Goodbye,
            "502",
            false,
        ),
        answer(
            "LF alone",
            status("HTTP/1.1 200 OK").iter().copied().filter(|b| *b != b'\r').collect(),
            Cut,
            "200 whole",
            true,
        ),
        answer("a folded line", with_length("X: a\r\n b\r\n"), Cut, "502", false),
        answer("NUL in a value", with_length("X: a\0b\r\n"), Cut, "502", false),
        answer("a blank in a name", with_length("X Y: a\r\n"), Cut, "502", false),
        answer("1,000 fields", with_length(&many), Cut, "502", false),
        answer("a field of 100,000 bytes", with_length(&format!("X: {long}\r\n")), Cut, "502", false),
        answer(
            "1,000 times 100",
            ["HTTP/1.1 100 Continue\r\n\r\n".repeat(1000).into_bytes(), with_length("")].concat(),
            Stay,
            "200 whole",
            true,
        ),
        answer(
            "103, then 200",
            ["HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n".as_bytes(), &with_length("")].concat(),
            Stay,
            "200 whole",
            true,
        ),
        answer("101 unasked", status("HTTP/1.1 101 Switching Protocols"), Cut, "502", false),
        answer("status 0", status("HTTP/1.1 000 X"), Cut, "502", false),
        answer("status 99", status("HTTP/1.1 099 X"), Cut, "502", false),
        answer("status 999", status("HTTP/1.1 999 X"), Stay, "999 whole", false),
        answer("a status of four digits", status("HTTP/1.1 2000 X"), Cut, "502", false),
        answer("no status", status("HTTP/1.1"), Cut, "502", false),
        answer("HTTP/2.0", status("HTTP/2.0 200 OK"), Cut, "502", false),
        answer("no answer", Vec::new(), Cut, "502", false),
        answer("half a head", b"HTTP/1.1 200 OK\r\nContent-".to_vec(), Cut, "502", false),
        answer("204 with a body", status("HTTP/1.1 204 No Content"), Stay, "204 empty", false),
        answer("304 with a body", status("HTTP/1.1 304 Not Modified"), Stay, "304 empty", false),
        answer("gzip", gzipped(&gz), Stay, "200 whole", true),
        answer(
            "gzip in two members",
            gzipped(&[gzip(&body.as_bytes()[..50]), gzip(&body.as_bytes()[50..])].concat()),
            Stay,
            "200 whole",
            true,
        ),
        answer("half of gzip", gzipped(&gz[..gz.len() / 2]), Stay, "200 torn", false),
        answer("gzip without its sum", gzipped(&gz[..gz.len() - 8]), Stay, "200 torn", false),
        answer("gzip with a false sum", gzipped(&[&gz[..gz.len() - 8], &[0; 8]].concat()), Stay, "200 torn", false),
        answer("gzip, then garbage", gzipped(&[&gz[..], b"garbage"].concat()), Stay, "200 torn", false),
        answer("gzip that is none", gzipped(body.as_bytes()), Stay, "cut", false),
        answer("a coding nobody asked for", with_length("Content-Encoding: br\r\n"), Stay, "200 whole", false),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).and_then(|()| gzip.finish()).expect("memory")
}

#[test]
fn whatever_the_upstream_sends_no_answer_is_taken_for_another_and_none_that_is_torn_for_whole() {
    let cases = Arc::new(answers());
    let sent = Arc::clone(&cases);
    let mut scene = Scene::scripted(&[], move |request, wire| {
        let Some(number) = request.target.strip_prefix(MAPS).and_then(|rest| rest.strip_prefix("?case=")) else {
            return echo(request, wire);
        };
        let case = &sent[number.parse::<usize>().expect("a number")];
        wire.send(&case.send)?;
        match case.then {
            Then::Stay => Ok(()),
            Then::Cut => wire.cut(),
            Then::Goodbye => wire.goodbye(),
        }
    });
    let target = |i: usize| format!("{MAPS}?case={i}");
    let whole = list(100, &["one", "two"]);
    let mut wrong = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let mut client = scene.proxy.client(Some(NODE));
        client.request("GET", &target(i), &[]);
        let came = match client.head() {
            // Nothing has been sent, not even a head.
            Err(_) => "cut".to_owned(),
            Ok(head) if head.status == 502 => "502".to_owned(),
            Ok(head) => {
                let body = match client.body(&head) {
                    Err(_) => "torn".to_owned(),
                    Ok(body) if body == whole.as_bytes() => "whole".to_owned(),
                    Ok(body) if body.is_empty() => "empty".to_owned(),
                    Ok(_) => "other".to_owned(),
                };
                format!("{} {body}", head.status)
            }
        };
        // Whoever comes next gets what he asked for, on whichever connection.
        for n in 0..3 {
            let next = scene.proxy.get(&format!("/next/{i}/{n}"));
            if next.text() != format!("GET /next/{i}/{n}") {
                wrong.push(format!("{}: the next is answered {} {:?}", case.name, next.status(), next.text()));
            }
        }
        println!("{:34} {came:12} recorded: {}", case.name, case.recorded);
        if came != case.client {
            wrong.push(format!("{}: expected {:?}, came {came:?}", case.name, case.client));
        }
    }
    assert_eq!(scene.proxy.metric("lite_apiserver_panics_total"), 0);
    println!("{} cases", cases.len());
    scene.cut();
    for (i, case) in cases.iter().enumerate() {
        let reply = scene.proxy.get(&target(i));
        let recorded = reply.status() == 200;
        if recorded != case.recorded || (recorded && reply.text() != whole) {
            wrong.push(format!("{}: offline {} {:?}", case.name, reply.status(), reply.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_flood_of_interim_answers_ends() {
    let scene = Scene::scripted(&["--slow-timeout=2s"], |request, wire| {
        if request.path() != MAPS {
            return echo(request, wire);
        }
        loop {
            wire.send("HTTP/1.1 100 Continue\r\n\r\n".repeat(100))?;
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut client = scene.proxy.client(Some(NODE));
    let status = client.get(MAPS).status();
    assert!(matches!(status, 502..=504), "{status}");
    assert_eq!(client.get("/next").text(), "GET /next");
}

/// A gigabyte of zeros, and a list of one object of a quarter of it, each a megabyte or less on the wire.
#[test]
fn gzip_bombs_pass_and_do_not_sit_in_memory() {
    let piece = 16 << 20;
    let (zeros, letters) = (gzip(&vec![0; piece]), gzip(&vec![b'a'; piece]));
    let head = list(100, &[]).replace(
        "[]}",
        r#"[{"metadata":{"name":"a","namespace":"shop","uid":"u","resourceVersion":"1"},"data":{"a":""#,
    );
    let (begin, end) = (gzip(head.as_bytes()), gzip(br#""}}]}"#));
    let object = [begin, letters.repeat(16), end].concat();
    let bombs = [("zeros", zeros.repeat(64), 64 * piece), ("object", object, 16 * piece + head.len() + 5)];
    let sent: Vec<_> = bombs.iter().map(|(name, bytes, _)| (*name, bytes.clone())).collect();
    let mut scene = Scene::scripted(&[], move |request, wire| {
        let (_, bytes) = sent.iter().find(|(name, _)| request.target.ends_with(name)).expect("a bomb");
        let ok = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n";
        wire.send([format!("{ok}Content-Length: {}\r\n\r\n", bytes.len()).as_bytes(), bytes].concat())
    });
    for (name, bytes, length) in &bombs {
        let mut client = scene.proxy.client(Some(NODE));
        client.request("GET", &format!("{MAPS}?bomb={name}"), &[]);
        let head = client.head().expect("a head");
        assert_eq!((head.status, head.header("content-encoding")), (200, None), "{name}");
        let mut came = 0;
        loop {
            let chunk = client.chunk().expect("a chunk");
            came += chunk.len();
            if chunk.is_empty() {
                break;
            }
        }
        let peak = scene.proxy.peak_memory();
        println!(
            "{name}: {} bytes on the wire, {came} to the client, {} KiB of memory at most",
            bytes.len(),
            peak >> 10
        );
        assert_eq!(came, *length, "{name}");
        // An object is kept up to --max-object-size, 8 MiB, and the process is a few more.
        assert!(peak < 64 << 20, "{name}: {} KiB", peak >> 10);
    }
    scene.cut();
    assert_eq!(scene.proxy.get(&format!("{MAPS}?bomb=zeros")).status(), 503);
    assert_eq!(scene.proxy.get(&format!("{MAPS}?bomb=object")).status(), 503);
}

/// Fields by which somebody in front of an apiserver vouches for a client, and those of one connection: none goes up,
/// whatever a client sends, and none by which it is decided who asks can be made to vanish on the way.
#[test]
fn fields_that_go_up_and_fields_that_do_not() {
    let scene = Scene::scripted(&[], echo);
    let stopped = [
        "X-Remote-User: system:admin",
        "x-remote-group: system:masters",
        "X-Remote-Extra-Scopes: all",
        "X-Forwarded-Client-Cert: Subject=\"CN=admin\"",
        "Client-Cert: :MIIB:",
        "Client-Cert-Chain: :MIIB:",
        "Proxy-Authorization: Basic eDp5",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=99999",
        "TE: trailers",
        "Trailer: X",
        "Upgrade: h2c",
        "X-Named: by Connection",
    ];
    let kept = ["Authorization: Bearer t", "Impersonate-User: eve", "Accept: application/json", "User-Agent: x"];
    let connection = "Connection: x-named, authorization, impersonate-user, accept, host, keep-alive";
    let mut client = scene.proxy.client(None);
    client.get_with("/x", &[&stopped[..], &kept[..], &[connection]].concat());
    let received = scene.upstream.received();
    let up = received.last().expect("a request");
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    for line in stopped.iter().chain(&["Connection: "]) {
        let came = up.header(&name(line)).filter(|v| !v.eq_ignore_ascii_case("keep-alive"));
        assert_eq!(came, None, "{line}");
    }
    for line in kept {
        assert_eq!(up.header(&name(line)), line.split_once(": ").map(|(_, v)| v), "{line}");
    }
    assert_eq!(up.header("host"), Some(format!("127.0.0.1:{}", scene.upstream.port()).as_str()));
}

/// What is said of `//apis` is not said of `/apis`, which all share.
#[test]
fn a_path_that_only_looks_the_same_says_nothing_of_the_other() {
    let mut scene = Scene::scripted(&[], |request, wire| match request.path() {
        "/apis" | "/openapi/v2" => wire.json(200, r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#),
        _ => wire.json(404, r#"{"kind":"Status","code":404}"#),
    });
    for target in ["/apis", "/openapi/v2"] {
        assert_eq!(scene.proxy.get(target).status(), 200);
    }
    for target in ["//apis", "/apis//", "/apis/.", "/%61pis/%2e", "/openapi/v2/", "//openapi/v2"] {
        assert_eq!(scene.proxy.client(Some(ADMIN)).get(target).status(), 404, "{target}");
    }
    scene.cut();
    for target in ["/apis", "/openapi/v2"] {
        assert_eq!(scene.proxy.get(target).status(), 200, "{target}");
    }
}

/// kube-apiserver takes none of these for a token and answers as to nobody: 403. That 403 must not count as the
/// acceptance of a token whose claims name somebody else: offline it would open that somebody's record.
#[test]
fn what_is_no_token_upstream_is_none_here() {
    // {"iss":"i","sub":"victim"}, signed by nobody.
    let forged = "h.eyJpc3MiOiJpIiwic3ViIjoidmljdGltIn0.forged";
    let good = "h.eyJpc3MiOiJpIiwic3ViIjoidmljdGltIn0.good";
    let mut scene = Scene::scripted(&[], move |request, wire| {
        // As kube-apiserver reads the field (`bearertoken.go`).
        let value = request.header("authorization").unwrap_or_default().trim().to_owned();
        let words: Vec<&str> = value.split(' ').collect();
        match words.as_slice() {
            ["Bearer", token, ..] if *token == good => wire.json(200, list(100, &["secret"])),
            ["Bearer", "opaque", ..] => wire.json(200, list(100, &["own"])),
            ["Bearer", token, ..] if !token.is_empty() => wire.json(401, "{}"),
            _ => wire.json(403, "{}"),
        }
    });
    let get = |scene: &Scene, target: &str, headers: &[&str]| scene.proxy.client(None).get_with(target, headers);
    let ask = |scene: &Scene, headers: &[&str]| get(scene, MAPS, headers);
    let victim = format!("Authorization: Bearer {good}");
    assert!(ask(&scene, &[&victim]).text().contains("secret"));
    let two_blanks = format!("Authorization: Bearer  {forged}");
    let plain = format!("Authorization: Bearer {forged}");
    let two_words = format!("Authorization: Bearer opaque {forged}");
    let refused = format!("{plain}-another");
    let joined = "Authorization: Bearer opaque .eyJpc3MiOiJpIiwic3ViIjoidmljdGltIn0.x";
    let attacks: [&[&str]; 6] = [
        &[&two_blanks],
        &[&plain, "Connection: authorization"],
        &["Authorization: Basic x", &plain],
        &[&two_words],
        &[joined],
        &[&refused],
    ];
    for headers in attacks {
        // Another path than the victim's: a 403 there would only drop what he has.
        get(&scene, "/api/v1/namespaces/shop/secrets", headers);
    }
    scene.cut();
    for headers in attacks {
        let reply = ask(&scene, headers);
        println!("{headers:?}: {}", reply.status());
        assert!(!reply.text().contains("secret"), "offline: {headers:?}: {}", reply.text());
    }
    assert!(ask(&scene, &[&victim]).text().contains("secret"), "its own record is there");
}

#[test]
fn slow_handshakes_and_heads_have_their_time() {
    let scene = Scene::scripted(&["--handshake-timeout=1s", "--head-timeout=1s", "--idle-timeout=2s"], echo);
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut socket = TcpStream::connect(("127.0.0.1", scene.proxy.port)).expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        socket.write_all(beginning).expect("sent");
        assert!(matches!(socket.read(&mut [0]), Ok(0) | Err(_)));
    }
    let mut plain = TcpStream::connect(("127.0.0.1", scene.proxy.port)).expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let mut text = String::new();
    plain.read_to_string(&mut text).expect("an answer");
    assert!(text.starts_with("HTTP/1.0 400 ") && text.contains("HTTPS"), "{text}");
    let mut client = scene.proxy.client(Some(NODE));
    client.send("GET /x HTTP/1.1\r\nHost: h\r\n");
    assert_eq!(client.head().expect("a head").status, 408);
    let mut client = scene.proxy.client(Some(NODE));
    assert!(client.is_ended(), "nothing was asked in time");
}
