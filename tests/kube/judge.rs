//! Go's server as the judge of the table of abuse: its column says what it answers, so that nobody has to believe it.

use crate::support::abuse::{self, play};
use crate::support::free_port;
use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn go_answers_the_same_bytes_as_the_table_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/judge");
    // Built first, so that what is started is the server and not `go`.
    let program = std::env::temp_dir().join(format!("lite-apiserver-judge-{}", free_port()));
    let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(folder).status();
    assert!(built.expect("go").success(), "the judge is not built");
    let started = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut judge = started.expect("the judge");
    let mut address = String::new();
    BufReader::new(judge.stdout.take().expect("piped")).read_line(&mut address).expect("an address");
    let mut wrong = Vec::new();
    for case in abuse::table() {
        let ask = || {
            let stream = TcpStream::connect(address.trim()).expect("connected");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            play(stream, &case.send, |stream| drop(stream.shutdown(Shutdown::Both)))
        };
        // Where the server does not read all, a reset may overtake its answer (RFC 9112 section 9.6): then once more.
        let said = (0..3).map(|_| ask()).find(|said| said != "cut").unwrap_or_else(|| "cut".to_owned());
        println!("{:34} {said}", case.name);
        if said != case.go {
            wrong.push(format!("{}: the table says {:?}, Go {said:?}", case.name, case.go));
        }
    }
    drop(judge.stdin.take());
    let _ = judge.wait();
    let _ = std::fs::remove_file(&program);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
