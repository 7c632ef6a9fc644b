//! `cargo bench`: lite-apiserver and nginx as TLS-to-TLS reverse proxies, in one run, before the same upstream.
//!
//! The upstream is an nginx of its own with static files, all on loopback. Both proxies keep connections on both sides,
//! verify certificates on both sides, and show the node's certificate upstream. nginx has two workers and its default
//! buffering. lite-apiserver records what passes in its file cache, as it does by default (a list that has not changed is
//! compared, not written again), and waits for a first byte as long as nginx does, so that nothing is answered from there.
//!
//! They are asked in turn, slice by slice, so that what else the machine does hits both; what is told is the median over
//! the slices. Then tunnels ([`tunnels`]); then what the record costs and how fast it answers ([`record`]), in JSON and in
//! protobuf. `--quick` takes shorter slices; any other argument is a part of the name of what is to be asked for, or of
//! `tunnels`, `record`, `JSON`, `protobuf` or `engines` (each engine of the record with the same list, and without nginx; or
//! the name of one), or of `wear` (hours of a node's life by engine, compressed in time). A low ratio is a finding, not a
//! failure; a wrong answer is a failure.

#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "the table is what this is for")]
#![allow(unreachable_pub, reason = "modules of one program")]

#[path = "../support/mod.rs"]
mod support;

mod load;
mod memory;
mod nginx;
mod objects;
mod pods;
mod processes;
mod record;
mod tunnels;
mod wear;

use load::{Answered, Clients};
use nginx::{Buffering, Nginx};
use objects::Question;
use rustls::ClientConfig;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::TempDir;
use support::client::tls;
use support::pki::Pki;
use support::proxy::{NODE, Proxy};

/// The program that is measured.
const PROGRAM: &str = env!("CARGO_BIN_EXE_lite-apiserver");
const CONNECTIONS: [usize; 3] = [1, 8, 64];

/// How long the measuring takes.
#[derive(Clone, Copy)]
struct Pace {
    /// Turns that each proxy has in a cell of the table.
    slices: usize,
    slice: Duration,
    /// Until memory has come to rest.
    rest: Duration,
}

const FULL: Pace = Pace { slices: 9, slice: Duration::from_millis(450), rest: Duration::from_secs(5) };
const QUICK: Pace = Pace { slices: 3, slice: Duration::from_millis(230), rest: Duration::from_secs(2) };

fn main() -> ExitCode {
    let pace = if std::env::args().any(|a| a == "--quick") { QUICK } else { FULL };
    let wanted = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_default();
    if wanted == "wear" {
        if let Err(e) = wear::measure(&wanted) {
            eprintln!("broken: {e}");
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    let Some(program) = nginx::find() else {
        eprintln!("nginx is not there: apt-get install nginx-light");
        return ExitCode::FAILURE;
    };
    let begun = Instant::now();
    let forwards = wanted.is_empty() || objects::questions().iter().any(|q| q.name.contains(&wanted));
    let forwarding = if forwards { measure(&program, pace, &wanted) } else { Ok(()) };
    let tunnelled = if "tunnels".contains(&wanted) {
        forwarding.and_then(|()| tunnels::measure(&program, pace))
    } else {
        forwarding
    };
    let recorded = tunnelled.and_then(|()| record::measure(&program, pace, &wanted));
    let compared = recorded.and_then(|()| record::compare(pace, &wanted));
    if let Err(e) = compared.and_then(|()| wear::measure(&wanted)) {
        eprintln!("broken: {e}");
        return ExitCode::FAILURE;
    }
    println!("\nevery answer was 200 and of the right length, the first of each connection compared to the byte");
    println!("{} s", begun.elapsed().as_secs());
    ExitCode::SUCCESS
}

fn measure(program: &std::path::Path, pace: Pace, wanted: &str) -> io::Result<()> {
    let folder = TempDir::new();
    let questions = objects::questions();
    let root = folder.path().join("files");
    objects::write_below(&root, &questions);
    let keys = folder.path().join("pki");
    let pki = Pki::new(&keys);
    let upstream = Nginx::upstream(program, &pki, &root);
    let node = pki.pair(NODE);
    let client = tls(&pki.ca(), Some(&node));
    let rival = Nginx::rival(program, &pki, upstream.port, &node, Buffering::On);
    let proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port, &["--timeout=60"]);
    let (ours, theirs) = (vec![proxy.pid()], rival.family());

    std::thread::sleep(pace.rest);
    let idle = [processes::pss(&ours), processes::pss(&theirs)];
    let asked = questions.iter().filter(|q| q.name.contains(wanted));
    let table = asked.map(|q| race(q, &client, (proxy.port, &ours), (rival.port, &theirs), pace));
    println!("{:<14} {:>5}  {:>22}  {:>5}  {:>22}", "", "", "requests a second", "", "CPU us a request");
    println!(
        "{:<14} {:>5}  {:>14} {:>7}  {:>5}  {:>14} {:>7}",
        "GET", "conns", "lite-apiserver", "nginx", "ratio", "lite-apiserver", "nginx"
    );
    let complaints = || [proxy.log(), rival.complaints(), upstream.complaints()].concat();
    table.collect::<io::Result<()>>().map_err(|e| io::Error::other(format!("{e}\n{}", complaints())))?;
    let page = proxy.page("/metrics");
    let recalled =
        page.lines().filter(|l| l.starts_with("lite_apiserver_requests_total") && l.contains("source=\"record\""));
    if recalled.count() > 0 {
        println!("(some answers came from the record, not from the upstream: {})", proxy.log());
    }
    std::thread::sleep(pace.rest);
    let after = [processes::pss(&ours), processes::pss(&theirs)];
    let complaints = [rival.complaints(), upstream.complaints()].concat();
    if complaints.lines().any(|l| l.contains("[error]") || l.contains("[crit]")) {
        return Err(io::Error::other(format!("nginx complained: {complaints}")));
    }
    drop((proxy, rival, upstream));

    let watching = memory::with_idle_watches(program, pace.rest)?;
    println!("\n{:<36}  {:>14} {:>7}", "memory (PSS, MB)", "lite-apiserver", "nginx");
    for (name, [ours, theirs]) in
        [("idle, just started", idle), ("with 100 idle watches", watching), ("idle, after all of the above", after)]
    {
        println!("{name:<36}  {:>14.1} {:>7.1}", megabytes(ours), megabytes(theirs));
    }
    println!("{:<36}  {:>14.2}", "size of the binary, MB", megabytes(std::fs::metadata(PROGRAM)?.len()));
    Ok(())
}

/// One thing asked of both, over ever more connections; each proxy is its port and its processes.
fn race(
    question: &Question,
    client: &Arc<ClientConfig>,
    (our_port, ours): (u16, &[u32]),
    (their_port, theirs): (u16, &[u32]),
    pace: Pace,
) -> io::Result<()> {
    let Question { name, target, body } = question;
    for connections in CONNECTIONS {
        let connect = |port| Clients::connect(port, client, connections, target, "application/json", body);
        let mut sides = [Side::new(connect(our_port)?, ours), Side::new(connect(their_port)?, theirs)];
        for turn in 0..pace.slices {
            // Each begins as often as the other.
            for index in [turn % 2, 1 - turn % 2] {
                sides[index].take_turn(pace.slice)?;
            }
        }
        let [a, b] = &sides;
        let ratio = median(a.slices.iter().zip(&b.slices).map(|(a, b)| a.rate() / b.rate()));
        let (rate_a, rate_b) = (a.rate(), b.rate());
        let (cpu_a, cpu_b) = (a.cpu_per_request(), b.cpu_per_request());
        println!("{name:<14} {connections:>5}  {rate_a:>14.0} {rate_b:>7.0}  {ratio:>5.2}  {cpu_a:>14.0} {cpu_b:>7.0}");
    }
    Ok(())
}

/// One proxy in one cell.
struct Side<'a> {
    clients: Clients,
    family: &'a [u32],
    slices: Vec<Answered>,
    cpu: u64,
}

impl Side<'_> {
    fn new(clients: Clients, family: &[u32]) -> Side<'_> {
        Side { clients, family, slices: Vec::new(), cpu: 0 }
    }

    fn take_turn(&mut self, span: Duration) -> io::Result<()> {
        let before = processes::cpu(self.family);
        self.slices.push(self.clients.ask_for(span)?);
        self.cpu += processes::cpu(self.family) - before;
        Ok(())
    }

    fn rate(&self) -> f64 {
        median(self.slices.iter().map(|s| s.rate()))
    }

    fn cpu_per_request(&self) -> f64 {
        self.cpu as f64 / self.slices.iter().map(|s| s.requests).sum::<u64>() as f64
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
