//! What the record costs, and how fast it answers: figures with the aim beside each. A missed aim is a finding, not a
//! failure.

use crate::PROGRAM;
use crate::load::Clients;
use crate::nginx::Nginx;
use crate::pods::{self, Encoding};
use crate::support::TempDir;
use crate::support::client::{Client, tls};
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::{Received, Upstream, Wire};
use crate::{Pace, median, megabytes, processes};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustls::ClientConfig;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PODS: &str = "/api/v1/pods";
const MAPS: &str = "/api/v1/namespaces/shop/configmaps";
const METRIC: &str = "lite_apiserver_record_written_bytes_total";
/// Pods in the long list.
const COUNT: u64 = 10_000;
/// How often all of them change.
const ROUNDS: u64 = 3;
/// Watch events, about so many configmaps, of so many bytes.
const EVENTS: u64 = 3000;
const NAMES: u64 = 50;
const SIZE: usize = 3000;
/// Short, so that files are written anew as often within seconds as they are else within hours.
const FLUSH: Duration = Duration::from_millis(30);

/// One figure: what it is of, its value and unit, and what it should be.
struct Figure(String, f64, &'static str, String);

fn figure(name: impl Into<String>, value: f64, unit: &'static str, aim: impl Into<String>) -> Figure {
    Figure(name.into(), value, unit, aim.into())
}

/// Prints the table of both encodings.
pub fn measure(nginx: &Path, pace: Pace, wanted: &str) -> io::Result<()> {
    for encoding in Encoding::BOTH.into_iter().filter(|e| e.name().contains(wanted) || "record".contains(wanted)) {
        let figures = of(encoding, nginx, pace)?;
        println!("\n{:<58}  {:>9}        {:>8}", format!("the record, {}", encoding.name()), "measured", "aim");
        for Figure(name, value, unit, aim) in figures {
            println!("{name:<58}  {value:>9.2} {unit:<5}  {aim:>8}");
        }
    }
    Ok(())
}

/// The engines that the program was built with, as `--cache-type` names them.
const ENGINES: &[&str] = &[
    "file",
    "memory",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "fjall")]
    "fjall",
];

/// Prints what a list of 10,000 pods costs, and how fast it is recalled, by each engine.
pub fn compare(pace: Pace, wanted: &str) -> io::Result<()> {
    for engine in ENGINES.iter().filter(|e| e.contains(wanted) || "engines".contains(wanted)) {
        println!("\n{:<58}  {:>9}", format!("a list of {COUNT} pods, JSON, --cache-type {engine}"), "measured");
        for Figure(name, value, unit, _) in of_engine(engine, pace)? {
            println!("{name:<58}  {value:>9.2} {unit}");
        }
    }
    Ok(())
}

fn of_engine(engine: &str, pace: Pace) -> io::Result<Vec<Figure>> {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let client = tls(&pki.ca(), Some(&pki.pair(NODE)));
    let encoding = Encoding::BOTH[0];
    let list = pods::list(encoding, COUNT, 0);
    let lists = vec![(list.clone(), gzip(&list)?)];
    let answers = Arc::new(Answers { encoding, round: AtomicUsize::new(0), lists });
    let script = Arc::clone(&answers);
    let mut upstream = Upstream::start(&pki, move |request, wire| answer(&script, request, wire));
    let cache = folder.path().join("cache");
    let places = ["file-cache-path", "badger-cache-path"].map(|flag| format!("--{flag}={}", cache.display()));
    let file = format!("--bolt-cache-file={}", cache.join("db").display());
    let kind = format!("--cache-type={engine}");
    let flags = ["--timeout=60", &kind, &places[0], &places[1], &file];
    let mut proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port(), &flags);
    let mut scene = Scene { encoding, client, answers: &answers };
    let mut figures = Vec::new();

    scene.connect(proxy.port)?.get_with(MAPS, &[&scene.accept()]);
    std::thread::sleep(pace.rest);
    let idle = processes::resident(proxy.pid());
    figures.push(figure("memory when idle", megabytes(idle), "MB", ""));
    for (name, rounds) in [("recorded", 1), ("the same again", pace.slices)] {
        let before = settled(&proxy);
        processes::forget_peak(proxy.pid())?;
        let spans = (0..rounds).map(|_| Ok(scene.list(&mut scene.connect(proxy.port)?)?.1.as_secs_f64() * 1e3));
        let span = median(spans.collect::<io::Result<Vec<f64>>>()?.into_iter());
        std::thread::sleep(Duration::from_millis(1500));
        let written = settled(&proxy) - before;
        let above = proxy.peak_memory().saturating_sub(idle);
        figures.push(figure(format!("{name}: list whole"), span, "ms", ""));
        figures.push(figure(format!("{name}: peak above idle"), megabytes(above), "MB", ""));
        figures.push(figure(format!("{name}: written, as the engine counts it"), megabytes(written), "MB", ""));
    }
    if engine != "memory" {
        figures.push(figure("on disk", megabytes(allocated(&cache)?), "MB", ""));
    }
    scene.cut(&mut upstream, &proxy)?;
    let recall = |scene: &Scene<'_>, proxy: &Proxy, figures: &mut Vec<Figure>| {
        processes::forget_peak(proxy.pid())?;
        let (mut first, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..pace.slices * 3 {
            let spans = scene.list(&mut scene.connect(proxy.port)?)?;
            first.push(spans.0.as_secs_f64() * 1e3);
            whole.push(spans.1.as_secs_f64() * 1e3);
        }
        figures.push(figure("recalled: first byte", median(first.into_iter()), "ms", ""));
        figures.push(figure("recalled: list whole", median(whole.into_iter()), "ms", ""));
        let above = proxy.peak_memory().saturating_sub(idle);
        figures.push(figure("recalled: peak above idle", megabytes(above), "MB", ""));
        io::Result::Ok(())
    };
    recall(&scene, &proxy, &mut figures)?;
    if engine != "memory" {
        scene.starting("start", &mut proxy, pace, &mut figures, || Ok(()))?;
        scene.starting("start, page cache empty", &mut proxy, pace, &mut figures, || evict(&cache))?;
    }
    Ok(figures)
}

/// What the files below a folder take on disk.
fn allocated(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let (path, seen) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
        bytes += if seen.is_dir() { allocated(&path)? } else { seen.blocks() * 512 };
    }
    Ok(bytes)
}

/// The upstream's answers: the list of pods in each round, plain and gzipped.
struct Answers {
    encoding: Encoding,
    round: AtomicUsize,
    lists: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Answers {
    fn list(&self) -> &(Vec<u8>, Vec<u8>) {
        &self.lists[self.round.load(Ordering::SeqCst)]
    }
}

fn of(encoding: Encoding, nginx: &Path, pace: Pace) -> io::Result<Vec<Figure>> {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let node = pki.pair(NODE);
    let client = tls(&pki.ca(), Some(&node));
    let lists = (0..ROUNDS).map(|round| {
        let list = pods::list(encoding, COUNT, round);
        let gzipped = gzip(&list)?;
        Ok((list, gzipped))
    });
    let answers = Arc::new(Answers { encoding, round: AtomicUsize::new(0), lists: lists.collect::<io::Result<_>>()? });
    let root = folder.path().join("files");
    let file = root.join(PODS.trim_start_matches('/'));
    std::fs::create_dir_all(file.parent().expect("a folder"))?;
    std::fs::write(file, &answers.list().0)?;
    let rival = Nginx::upstream(nginx, &pki, &root);
    let script = Arc::clone(&answers);
    let mut upstream = Upstream::start(&pki, move |request, wire| answer(&script, request, wire));
    let flush = format!("--flush-interval={}ms", FLUSH.as_millis());
    let mut proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port(), &["--timeout=60", &flush]);
    let mut scene = Scene { encoding, client, answers: &answers };
    let mut figures = Vec::new();

    scene.events(&proxy, &mut figures)?;
    std::thread::sleep(pace.rest);
    scene.recording(&proxy, &mut figures)?;
    scene.cut(&mut upstream, &proxy)?;
    scene.recalling(&proxy, &rival, pace, &mut figures)?;
    let cache = proxy.folder.path().join("cache");
    scene.starting("start", &mut proxy, pace, &mut figures, || Ok(()))?;
    scene.starting("start, page cache empty", &mut proxy, pace, &mut figures, || evict(&cache))?;
    upstream.heal();
    proxy.await_link(true);
    scene.changing(&proxy, &mut figures)?;
    scene.cut(&mut upstream, &proxy)?;
    scene.starting("start, file two thirds garbage", &mut proxy, pace, &mut figures, || Ok(()))?;
    Ok(figures)
}

/// As kube-apiserver compresses what is long (apiserver's `pkg/endpoints/handlers/responsewriters/writers.go`,
/// `defaultGzipContentEncodingLevel`).
fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
    encoder.write_all(body)?;
    encoder.finish()
}

fn answer(answers: &Answers, request: &Received, wire: &mut Wire) -> io::Result<()> {
    let encoding = answers.encoding;
    let media_type = encoding.media_type();
    if request.path() == PODS {
        let gzip = request.header("accept-encoding").is_some_and(|v| v.contains("gzip"));
        let (plain, gzipped) = answers.list();
        let (body, field) = if gzip { (gzipped, "Content-Encoding: gzip\r\n") } else { (plain, "") };
        wire.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n{field}Transfer-Encoding: chunked\r\n\r\n"
        ))?;
        body.chunks(16 << 10).try_for_each(|piece| wire.chunk(piece))?;
        return wire.end_chunked();
    }
    if !request.target.contains("watch") {
        return wire.answer(200, media_type, pods::no_maps(encoding, 100));
    }
    wire.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type};stream=watch\r\nTransfer-Encoding: chunked\r\n\r\n"
    ))?;
    for number in 0..EVENTS {
        wire.chunk(event(encoding, number).0)?;
        std::thread::sleep(Duration::from_micros(500));
    }
    wire.end_chunked()
}

/// The event of this number, and how long its object is.
fn event(encoding: Encoding, number: u64) -> (Vec<u8>, usize) {
    pods::event(encoding, &format!("map-{}", number % NAMES), 101 + number, SIZE)
}

struct Scene<'a> {
    encoding: Encoding,
    client: Arc<ClientConfig>,
    answers: &'a Answers,
}

impl Scene<'_> {
    fn connect(&self, port: u16) -> io::Result<Client> {
        Client::try_connect(port, &self.client)
    }

    /// Cuts the link, and waits until the proxy has found it down.
    fn cut(&self, upstream: &mut Upstream, proxy: &Proxy) -> io::Result<()> {
        upstream.cut();
        self.connect(proxy.port)?.get("/livez");
        proxy.await_link(false);
        Ok(())
    }

    fn accept(&self) -> String {
        format!("Accept: {}", self.encoding.media_type())
    }

    /// What is written to the disk for watch events.
    fn events(&mut self, proxy: &Proxy, figures: &mut Vec<Figure>) -> io::Result<()> {
        let mut client = self.connect(proxy.port)?;
        client.get_with(MAPS, &[&self.accept()]);
        let before = settled(proxy);
        let watched = client.get_with(&format!("{MAPS}?watch=true&resourceVersion=100"), &[&self.accept()]);
        let sent: Vec<_> = (0..EVENTS).map(|n| event(self.encoding, n)).collect();
        if watched.body != sent.iter().flat_map(|(event, _)| event.iter().copied()).collect::<Vec<_>>() {
            return Err(io::Error::other("a watch is not what the upstream sent"));
        }
        let objects: usize = sent.iter().map(|(_, object)| object).sum();
        let written = settled(proxy) - before;
        let name = "disk: bytes written for a byte of a 3 KB event's object";
        figures.push(figure(name, written as f64 / objects as f64, "", "<= 1.5"));
        Ok(())
    }

    /// What memory it takes to record a long list, and what is written for the same list again.
    fn recording(&mut self, proxy: &Proxy, figures: &mut Vec<Figure>) -> io::Result<()> {
        let mut client = self.connect(proxy.port)?;
        // What is answered grows the buffers that any answer needs.
        client.get_with(MAPS, &[&self.accept()]);
        let idle = processes::resident(proxy.pid());
        processes::forget_peak(proxy.pid())?;
        let mut list = || {
            let reply = client.get_with(PODS, &[&self.accept()]);
            let same = reply.status() == 200 && reply.body == self.answers.list().0;
            if same { Ok(()) } else { Err(io::Error::other("a list is not what the upstream sent")) }
        };
        let before = settled(proxy);
        list()?;
        let written = settled(proxy);
        let above = proxy.peak_memory().saturating_sub(idle);
        let largest = self.answers.list().0.len() as u64 / COUNT;
        let name = format!("a list of {COUNT} pods, {:.0} MB", megabytes(self.answers.list().0.len() as u64));
        println!("({name}; idle {:.1} MB, written {:.1} MB)", megabytes(idle), megabytes(written - before));
        let aim = format!("<= {:.2}", 2.0 + megabytes(largest));
        figures.push(figure("memory: peak above idle, a 50 MB list recorded", megabytes(above), "MB", aim.clone()));
        processes::forget_peak(proxy.pid())?;
        list()?;
        let again = settled(proxy) - written;
        let above = proxy.peak_memory().saturating_sub(idle);
        figures.push(figure("memory: peak above idle, the same list again", megabytes(above), "MB", aim));
        figures.push(figure("disk: bytes written when it is the same list again", again as f64, "bytes", "0"));
        Ok(())
    }

    /// How fast a long list is recalled, and by nginx from a file.
    fn recalling(&mut self, proxy: &Proxy, rival: &Nginx, pace: Pace, figures: &mut Vec<Figure>) -> io::Result<()> {
        processes::forget_peak(proxy.pid())?;
        let mut client = self.connect(proxy.port)?;
        let first = (0..pace.slices * 3).map(|_| Ok(self.list(&mut client)?.0.as_secs_f64() * 1e3));
        let first = median(first.collect::<io::Result<Vec<f64>>>()?.into_iter());
        figures.push(figure("offline list: first byte", first, "ms", "<= 5"));
        let connect =
            |port| Clients::connect(port, &self.client, 1, PODS, self.encoding.media_type(), &self.answers.list().0);
        let mut sides = [connect(proxy.port)?, connect(rival.port)?];
        let mut rates = [Vec::new(), Vec::new()];
        for turn in 0..pace.slices {
            for index in [turn % 2, 1 - turn % 2] {
                rates[index].push(sides[index].ask_for(pace.slice)?.rate());
            }
        }
        let ratio = median(rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b));
        let [ours, theirs] = rates.map(|r| median(r.into_iter()) * megabytes(self.answers.list().0.len() as u64));
        figures.push(figure("offline list: throughput", ours, "MB/s", ""));
        figures.push(figure("offline list: nginx's, from a file", theirs, "MB/s", ""));
        figures.push(figure("offline list: throughput, of nginx's", ratio, "", ">= 0.5"));
        Ok(())
    }

    /// How long the first list takes after a start, before which `prepare` is called.
    fn starting(
        &mut self,
        name: &str,
        proxy: &mut Proxy,
        pace: Pace,
        figures: &mut Vec<Figure>,
        prepare: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut spans = [const { Vec::new() }; 4];
        for _ in 0..pace.slices {
            proxy.terminate();
            prepare()?;
            let begun = Instant::now();
            proxy.boot();
            spans[0].push(begun.elapsed());
            let mut client = self.connect(proxy.port)?;
            let (first, whole) = self.list(&mut client)?;
            spans[1].push(first);
            spans[2].push(whole);
            // With the handshake, which waits for the record to be opened.
            spans[3].push(begun.elapsed());
        }
        for ((what, spans), aim) in
            ["until it listens", "first list's first byte", "first list whole", "until that, in all"]
                .into_iter()
                .zip(spans)
                .zip(["", "<= 50", "", ""])
        {
            let span = median(spans.iter().map(|span| span.as_secs_f64() * 1e3));
            figures.push(figure(format!("{name}: {what}"), span, "ms", aim));
        }
        Ok(())
    }

    /// Lists anew when each object has changed, twice.
    fn changing(&mut self, proxy: &Proxy, figures: &mut Vec<Figure>) -> io::Result<()> {
        let before = settled(proxy);
        let mut listed = 0;
        for round in 1..ROUNDS as usize {
            self.answers.round.store(round, Ordering::SeqCst);
            self.list(&mut self.connect(proxy.port)?)?;
            listed += self.answers.list().0.len();
        }
        let written = settled(proxy) - before;
        let name = "disk: bytes written for a byte of a list, all of it changed";
        figures.push(figure(name, written as f64 / listed as f64, "", ""));
        Ok(())
    }

    /// Asks for the list: how long until its first byte, and until its last.
    fn list(&self, client: &mut Client) -> io::Result<(Duration, Duration)> {
        let begun = Instant::now();
        client.request("GET", PODS, &[&self.accept()]);
        let head = client.head()?;
        let first = begun.elapsed();
        let body = client.body(&head)?;
        let whole = begun.elapsed();
        let same = head.status == 200 && body == self.answers.list().0;
        if same { Ok((first, whole)) } else { Err(io::Error::other("a list is not what was recorded")) }
    }
}

/// Bytes written to the record, once nothing more is.
fn settled(proxy: &Proxy) -> u64 {
    let mut written = proxy.metric(METRIC);
    loop {
        std::thread::sleep(FLUSH * 10);
        let now = proxy.metric(METRIC);
        if now == written {
            return written;
        }
        written = now;
    }
}

/// Throws the files below a folder out of the page cache.
fn evict(folder: &Path) -> io::Result<()> {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                let file = std::fs::File::open(entry.path())?;
                file.sync_all()?;
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
    }
    Ok(())
}
