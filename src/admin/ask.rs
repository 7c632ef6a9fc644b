//! The endpoint, asked from outside by another command of the program.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What is read of an answer at most.
const LONGEST: u64 = 1 << 20;

/// The whole answer, its head included.
///
/// # Errors
/// Nobody takes the connection or answers within `patience`, or not in text.
pub(crate) fn ask(admin: SocketAddr, path: &str, patience: Duration) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&admin, patience)?;
    socket.set_read_timeout(Some(patience))?;
    write!(socket, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    socket.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Whether it says that it is well.
pub(crate) fn is_well(admin: SocketAddr, patience: Duration) -> bool {
    ask(admin, "/healthz", patience).is_ok_and(|page| page.lines().next().is_some_and(|first| first.contains(" 200")))
}
