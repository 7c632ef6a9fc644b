//! Tunnels, as exec and port-forward dig them: how fast bytes pass, one way and both ways, without a proxy, through
//! lite-apiserver and through nginx; and what fifty of them cost, idle, and with clients that do not read.

use crate::nginx::{Buffering, Nginx};
use crate::support::TempDir;
use crate::support::client::{Client, tls};
use crate::support::pki::Pki;
use crate::support::proxy::{NODE, Proxy};
use crate::support::upstream::{Received, Upstream, Wire};
use crate::{PROGRAM, Pace, median, megabytes, processes};
use rustls::ClientConfig;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MANY: usize = 50;
/// Bytes in a tunnel that goes one way.
const LENGTH: usize = 64 << 20;
/// There and back at a time, in one that goes both ways.
const PIECE: usize = 64 * 1024;
/// Longer than the whole run.
const HELD: Duration = Duration::from_secs(600);

const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";

/// Throughput and memory.
pub fn measure(program: &Path, pace: Pace) -> io::Result<()> {
    let folder = TempDir::new();
    let pki = Pki::new(&folder.path().join("pki"));
    let upstream = Upstream::start(&pki, answer);
    let node = pki.pair(NODE);
    let client = tls(&pki.ca(), Some(&node));
    let rival = Nginx::rival(program, &pki, upstream.port(), &node, Buffering::Off);
    let proxy = Proxy::start_program(&[PROGRAM.to_owned()], pki, upstream.port(), &[]);
    let (ours, theirs) = (vec![proxy.pid()], rival.family());
    let ways: [(u16, &[u32]); 3] = [(upstream.port(), &[]), (proxy.port, &ours), (rival.port, &theirs)];

    println!(
        "\n{:<24}  {:>8}  {:>14} {:>7}  {:>14} {:>7}",
        "", "", "lite-apiserver", "nginx", "lite-apiserver", "nginx"
    );
    println!("{:<24}  {:>8}  {:>22}  {:>22}", "a tunnel's bytes", "direct", "MB/s", "CPU us a MB");
    for (name, what) in [("to the upstream", "up"), ("to the client", "down"), ("there and back", "echo")] {
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        let mut costs = [0.0; 3];
        for turn in 0..pace.slices {
            for index in 0..ways.len() {
                let (port, family) = ways[(index + turn) % ways.len()];
                let before = processes::cpu(family);
                let seconds = pass(port, &client, what)?;
                let who = (index + turn) % ways.len();
                rates[who].push(LENGTH as f64 / 1e6 / seconds);
                costs[who] += (processes::cpu(family) - before) as f64 / (LENGTH as f64 / 1e6);
            }
        }
        let [direct, ours, theirs] = rates.map(|r| median(r.into_iter()));
        let [_, our_cost, their_cost] = costs.map(|c| c / pace.slices as f64);
        println!("{name:<24}  {direct:>8.0}  {ours:>14.0} {theirs:>7.0}  {our_cost:>14.0} {their_cost:>7.0}");
    }

    let before = processes::pss(&ours);
    let mut used = [[0; 2]; 2];
    for (used, what) in used.iter_mut().zip(["idle", "flood"]) {
        for (used, (port, family)) in used.iter_mut().zip([(proxy.port, &ours), (rival.port, &theirs)]) {
            let open: Vec<Client> = (0..MANY).map(|_| dig(port, &client, what)).collect::<io::Result<_>>()?;
            std::thread::sleep(pace.rest);
            *used = processes::pss(family);
            drop(open);
        }
    }
    println!("\n{:<36}  {:>14} {:>7}", "memory (PSS, MB)", "lite-apiserver", "nginx");
    println!("{:<36}  {:>14.1}", "after the above, no tunnel open", megabytes(before));
    for (name, [ours, theirs]) in [("50 idle tunnels", used[0]), ("50 tunnels whose clients do not read", used[1])] {
        println!("{name:<36}  {:>14.1} {:>7.1}", megabytes(ours), megabytes(theirs));
    }
    Ok(())
}

fn dig(port: u16, client: &Arc<ClientConfig>, what: &str) -> io::Result<Client> {
    let mut client = Client::try_connect(port, client)?;
    let target = format!("/api/v1/namespaces/shop/pods/p/exec?command={what}");
    client.request("POST", &target, &["Connection: Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0"]);
    match client.head()?.status {
        101 => Ok(client),
        status => Err(io::Error::other(format!("{what}: {status}"))),
    }
}

/// Passes [`LENGTH`] bytes, whole; how many seconds it took.
fn pass(port: u16, client: &Arc<ClientConfig>, what: &str) -> io::Result<f64> {
    let mut client = dig(port, client, what)?;
    let mut piece = vec![7; PIECE];
    let begun = Instant::now();
    match what {
        "up" => {
            for _ in 0..LENGTH / PIECE {
                client.try_send(&piece)?;
            }
            client.read_exact(&mut piece[..4])?;
        }
        "down" => {
            for _ in 0..LENGTH / PIECE {
                client.read_exact(&mut piece)?;
            }
        }
        _ => {
            for _ in 0..LENGTH / PIECE {
                client.try_send(&piece)?;
                client.read_exact(&mut piece)?;
            }
        }
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn answer(request: &Received, wire: &mut Wire) -> io::Result<()> {
    wire.send(AGREED)?;
    let mut piece = vec![7; PIECE];
    match request.target.rsplit('=').next().unwrap_or_default() {
        "up" => {
            for _ in 0..LENGTH / PIECE {
                wire.read_exact(&mut piece)?;
            }
            wire.send("done")?;
        }
        "down" => {
            for _ in 0..LENGTH / PIECE {
                wire.send(&piece)?;
            }
        }
        "echo" => {
            for _ in 0..LENGTH / PIECE {
                wire.read_exact(&mut piece)?;
                wire.send(&piece)?;
            }
        }
        "flood" => while wire.send(&piece).is_ok() {},
        _ => {}
    }
    wire.peer_hangs_up_within(HELD);
    Err(io::ErrorKind::BrokenPipe.into())
}
