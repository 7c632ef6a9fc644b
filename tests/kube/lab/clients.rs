//! Who uses the link: a reader, a watcher and a writer, each noting what it saw; and the clock in the cloud by which they
//! tell how old that is.

use crate::support::client::Client;
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const MAPS: &str = "/api/v1/namespaces/lab/configmaps";
/// How long a client waits for one answer before it calls it failed; that of kubelet's node status.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the clock ticks.
const TICK: Duration = Duration::from_millis(250);

/// A way to the API.
#[derive(Clone)]
pub struct Way {
    pub address: SocketAddr,
    pub tls: Arc<ClientConfig>,
}

impl Way {
    fn connect(&self) -> io::Result<Client> {
        Client::try_connect_to(self.address, &self.tls, PATIENCE)
    }
}

/// A configmap in the cloud whose `tick` counts up; and when it did.
pub struct Clock {
    ticks: Arc<Mutex<Vec<Instant>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Starts it on a way that is never bad.
    pub fn start(way: Way) -> Clock {
        let (ticks, ended) = (Arc::<Mutex<Vec<Instant>>>::default(), Arc::<AtomicBool>::default());
        let (own, end) = (Arc::clone(&ticks), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            let mut client = way.connect().expect("the cloud reaches itself");
            while !end.load(Ordering::SeqCst) {
                let tick = own.lock().expect("ticks").len();
                // Before it is written: nobody sees it earlier.
                own.lock().expect("ticks").push(Instant::now());
                let reply = client.write("PUT", &format!("{MAPS}/clock"), &[], &map("clock", &tick.to_string()));
                assert_eq!(reply.status(), 200, "{}", reply.text());
                std::thread::sleep(TICK);
            }
        });
        Clock { ticks, ended, thread: Some(thread) }
    }

    /// For how long it has not been `tick` any more.
    fn age(&self, tick: usize) -> Duration {
        self.ticks.lock().expect("ticks").get(tick + 1).map_or(Duration::ZERO, Instant::elapsed)
    }

    /// How long ago it became `tick`.
    fn since(&self, tick: usize) -> Duration {
        self.ticks.lock().expect("ticks").get(tick).map_or(Duration::ZERO, Instant::elapsed)
    }

    /// What it shows now.
    pub fn tick(&self) -> usize {
        self.ticks.lock().expect("ticks").len() - 1
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A configmap as it is written.
pub fn map(name: &str, tick: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "lab"}, "data": {"tick": tick}})
        .to_string()
}

fn tick_of(object: &Value) -> Option<usize> {
    object["data"]["tick"].as_str()?.parse().ok()
}

/// What was seen of reads or writes.
#[derive(Default)]
pub struct Seen {
    /// To the first byte of a 2xx answer.
    pub took: Vec<Duration>,
    /// How old what was read was.
    pub age: Vec<Duration>,
    /// Answers with another status, and how long they took.
    pub refused: Vec<Duration>,
    /// No answer.
    pub failed: Vec<String>,
}

/// What was seen of a watch.
#[derive(Default)]
pub struct Watched {
    /// How long each tick took to come.
    pub lag: Vec<Duration>,
    /// When it ended at an event's border.
    pub ended: Vec<Instant>,
    pub broke: usize,
    /// Lists after the first.
    pub relisted: usize,
    /// The last tick that came.
    pub tick: usize,
    /// Ticks that came after a later one.
    pub backwards: usize,
}

/// Reads the clock every 100 ms until `end`.
pub fn read(way: &Way, clock: &Clock, end: Instant) -> Seen {
    ask(way, end, Duration::from_millis(100), |client, seen, begun| {
        client.try_send(format!("GET {MAPS}/clock HTTP/1.1\r\nHost: h\r\n\r\n"))?;
        let head = client.head()?;
        let took = begun.elapsed();
        let body = client.body(&head)?;
        if head.status == 200 {
            seen.took.push(took);
            let object: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
            seen.age.push(clock.age(tick_of(&object).ok_or_else(|| io::Error::other("no clock"))?));
        } else {
            seen.refused.push(took);
        }
        Ok(())
    })
}

/// Writes an object of its own each second until `end`.
pub fn write(way: &Way, name: &str, end: Instant) -> Seen {
    let mut count = 0;
    ask(way, end, Duration::from_secs(1), |client, seen, begun| {
        count += 1;
        let body = map(name, &count.to_string());
        let length = body.len();
        client.try_send(format!(
            "PUT {MAPS}/{name} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ))?;
        let head = client.head()?;
        let took = begun.elapsed();
        client.body(&head)?;
        let list = if head.status < 300 { &mut seen.took } else { &mut seen.refused };
        list.push(took);
        Ok(())
    })
}

/// Asks once in each `pause` until `end`, on one connection as long as it lasts.
fn ask(
    way: &Way,
    end: Instant,
    pause: Duration,
    mut once: impl FnMut(&mut Client, &mut Seen, Instant) -> io::Result<()>,
) -> Seen {
    let mut seen = Seen::default();
    let mut kept = None;
    while Instant::now() < end {
        let begun = Instant::now();
        let mut asked = || {
            let client = match &mut kept {
                Some(client) => client,
                empty => empty.insert(way.connect()?),
            };
            once(client, &mut seen, begun)
        };
        if let Err(e) = asked() {
            seen.failed.push(format!("{e} after {:.1} s", begun.elapsed().as_secs_f32()));
            kept = None;
        }
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
    seen
}

/// A client that lists once and watches on from where it was, as client-go's reflector does; ended by [`Watcher::end`].
pub struct Watcher {
    shared: Arc<Watching>,
    thread: JoinHandle<()>,
}

struct Watching {
    way: Way,
    clock: Arc<Clock>,
    seen: Mutex<Watched>,
    /// What blocks it now.
    socket: Mutex<Option<TcpStream>>,
    ended: AtomicBool,
}

impl Watcher {
    pub fn start(way: &Way, clock: &Arc<Clock>) -> Watcher {
        let shared = Arc::new(Watching {
            way: way.clone(),
            clock: Arc::clone(clock),
            seen: Mutex::default(),
            socket: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        Watcher { shared, thread: std::thread::spawn(move || own.reflect()) }
    }

    /// The last tick that came.
    pub fn tick(&self) -> usize {
        self.shared.seen().tick
    }

    /// When it ended at an event's border, each time.
    pub fn ends(&self) -> Vec<Instant> {
        self.shared.seen().ended.clone()
    }

    pub fn end(self) -> Watched {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(socket) = self.shared.socket.lock().expect("socket").take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.thread.join().expect("no panic");
        std::mem::take(&mut *self.shared.seen())
    }
}

impl Watching {
    fn seen(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reflect(&self) {
        let mut version: Option<String> = None;
        let mut lists = 0;
        while !self.ended.load(Ordering::SeqCst) {
            let outcome = match &mut version {
                None => {
                    lists += 1;
                    self.list().map(|listed| version = Some(listed))
                }
                Some(at) => self.watch(at).map(|goes_on| {
                    if !goes_on {
                        version = None;
                    }
                }),
            };
            if outcome.is_err() && !self.ended.load(Ordering::SeqCst) {
                self.seen().broke += 1;
                std::thread::sleep(Duration::from_millis(300));
            }
        }
        self.seen().relisted = lists - 1;
    }

    fn connect(&self, patience: Duration) -> io::Result<Client> {
        let client = Client::try_connect_to(self.way.address, &self.way.tls, PATIENCE)?;
        client.patience(patience);
        *self.socket.lock().expect("socket") = Some(client.socket());
        Ok(client)
    }

    fn list(&self) -> io::Result<String> {
        let mut client = self.connect(PATIENCE)?;
        let reply = client.try_get(MAPS)?;
        if reply.status() != 200 {
            return Err(io::Error::other(reply.text()));
        }
        let list = reply.json();
        list["metadata"]["resourceVersion"].as_str().map(str::to_owned).ok_or_else(|| io::Error::other("no list"))
    }

    /// Until the watch ends; whether the next may go on from there.
    fn watch(&self, version: &mut String) -> io::Result<bool> {
        // As client-go does over HTTP/1.1: no time limit of its own.
        let mut client = self.connect(Duration::from_secs(600))?;
        let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion={version}");
        client.try_send(format!("GET {MAPS}?{query} HTTP/1.1\r\nHost: h\r\n\r\n"))?;
        let head = client.head()?;
        if head.status != 200 {
            return Err(io::Error::other(head.status.to_string()));
        }
        let mut buffer = Vec::new();
        loop {
            let Some(event) = client.event(&mut buffer)? else {
                self.seen().ended.push(Instant::now());
                return Ok(true);
            };
            if event["type"] == "ERROR" {
                return Ok(false);
            }
            let object = &event["object"];
            if let Some(at) = object["metadata"]["resourceVersion"].as_str() {
                at.clone_into(version);
            }
            if object["metadata"]["name"] == "clock"
                && let Some(tick) = tick_of(object)
            {
                let mut seen = self.seen();
                seen.backwards += usize::from(tick < seen.tick);
                seen.tick = tick;
                seen.lag.push(self.clock.since(tick));
            }
        }
    }
}
