//! A client that lists once and watches on from where it was, as client-go's reflector does: what must stay on through
//! everything. It notes what happened to it.

use crate::support::client::Client;
use rustls::ClientConfig;
use serde_json::Value;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The running client.
pub struct Reflector {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    port: u16,
    tls: Arc<ClientConfig>,
    path: &'static str,
    begun: Instant,
    noted: Mutex<Vec<(Duration, Note)>>,
    ended: AtomicBool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A list was made, of this many objects. Once, if all goes well.
    Listed(usize),
    /// A watch began at this resourceVersion.
    Watching(String),
    /// The watch ended at an event's border.
    EndedCleanly,
    /// The watch broke, or could not be begun.
    Broke(String),
    /// An event, and the name of its object.
    Event(String, String),
}

impl Reflector {
    /// Starts it on a collection, through the proxy on this port.
    pub fn start(port: u16, tls: Arc<ClientConfig>, path: &'static str) -> Reflector {
        let (noted, ended) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { port, tls, path, begun: Instant::now(), noted, ended });
        let own = Arc::clone(&shared);
        Reflector { shared, thread: Some(std::thread::spawn(move || own.reflect())) }
    }

    /// What happened so far, and when.
    pub fn noted(&self) -> Vec<(Duration, Note)> {
        self.shared.noted.lock().expect("notes").clone()
    }

    /// How often this happened.
    pub fn count(&self, what: impl Fn(&Note) -> bool) -> usize {
        self.noted().iter().filter(|(_, note)| what(note)).count()
    }

    /// Ends it; the proxy must be gone, so that its watch is.
    pub fn join(mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.thread.take().expect("a thread").join().expect("no panic");
    }
}

impl Shared {
    fn note(&self, note: Note) {
        self.noted.lock().expect("notes").push((self.begun.elapsed(), note));
    }

    fn reflect(&self) {
        let mut position = None;
        while !self.ended.load(Ordering::SeqCst) {
            let done = match position.take() {
                None => self.list(),
                Some(version) => self.watch(version),
            };
            match done {
                Ok(version) => position = version,
                Err((version, e)) => {
                    self.note(Note::Broke(e.to_string()));
                    position = version;
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }

    /// Lists; where the watch begins.
    fn list(&self) -> Result<Option<String>, (Option<String>, io::Error)> {
        let list = || {
            let mut client = Client::try_connect(self.port, &self.tls)?;
            client.request("GET", self.path, &[]);
            let reply = client.reply()?;
            if reply.status() == 200 { Ok(reply.json()) } else { Err(io::Error::other(reply.text())) }
        };
        let list = list().map_err(|e| (None, e))?;
        self.note(Note::Listed(list["items"].as_array().map_or(0, Vec::len)));
        Ok(list["metadata"]["resourceVersion"].as_str().map(str::to_owned))
    }

    /// Watches until the stream ends; where the next begins: `None` where a list must come first.
    fn watch(&self, mut version: String) -> Result<Option<String>, (Option<String>, io::Error)> {
        let mut client = match Client::try_connect(self.port, &self.tls) {
            Ok(client) => client,
            Err(e) => return Err((Some(version), e)),
        };
        client.patience(Duration::from_secs(600));
        client.request(
            "GET",
            &format!("{}?watch=true&allowWatchBookmarks=true&resourceVersion={version}", self.path),
            &[],
        );
        match client.head() {
            Ok(head) if head.status == 200 => self.note(Note::Watching(version.clone())),
            Ok(head) => return Err((Some(version), io::Error::other(format!("{}", head.status)))),
            Err(e) => return Err((Some(version), e)),
        }
        let mut buffer = Vec::new();
        loop {
            match client.event(&mut buffer) {
                Ok(Some(event)) => {
                    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                    let (kind, metadata) = (text(&event["type"]), &event["object"]["metadata"]);
                    self.note(Note::Event(kind.clone(), text(&metadata["name"])));
                    if kind == "ERROR" {
                        return Ok(None);
                    }
                    version = text(&metadata["resourceVersion"]);
                }
                Ok(None) if buffer.is_empty() => {
                    self.note(Note::EndedCleanly);
                    return Ok(Some(version));
                }
                Ok(None) => return Err((Some(version), io::Error::other("ended within an event"))),
                Err(e) => return Err((Some(version), e)),
            }
        }
    }
}
