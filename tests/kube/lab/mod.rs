//! The link laboratory: what a reader, a watcher and a writer on the edge see of a real kube-apiserver in every kind of bad
//! weather, through the proxy and going direct; how held watches move over when the link is back; and a soak in random
//! weather. Figures are printed; what is held to is that nobody is told anything wrong, that no read through the proxy
//! fails, and that everybody has caught up once the weather is clear.

mod clients;
mod weather;

use crate::bed::Program;
use crate::control_plane::{ADMIN, ControlPlane};
use crate::scene;
use crate::support::client::{self, Client};
use crate::support::pki::Pki;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use clients::{Clock, MAPS, Seen, Watched, Watcher, Way, map};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use weather::{CLOUD, Link, Weather, Wind};

const SECOND: Duration = Duration::from_secs(1);
/// The proxy's `--timeout`, and what a busy machine may add to it.
const FIRST_ANSWER: Duration = Duration::from_secs(3 + 5);

/// How long each kind of weather lasts; `LAB_SECONDS` in the environment. (`LAB_WEATHER`: a part of the names of those to
/// try.)
fn span() -> Duration {
    let seconds = std::env::var("LAB_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(12))
}

/// Everything that runs; this thread is on the edge.
struct Lab {
    proxy: Proxy,
    clock: Arc<Clock>,
    direct: Way,
    proxied: Way,
    _control_plane: ControlPlane,
    link: Link,
    _folder: TempDir,
}

impl Lab {
    fn start(flags: &[&str]) -> Lab {
        let kube = Program::Kube.built();
        let folder = TempDir::new();
        let pki = Pki::new(&folder.path().join("pki"));
        let link = Link::new();
        link.enter_cloud();
        let control_plane = ControlPlane::start_at(&kube, &pki, CLOUD);
        let pair = pki.member(ADMIN, Some("system:masters"));
        let address = SocketAddr::new(CLOUD.parse::<IpAddr>().expect("an address"), control_plane.port());
        let direct = Way { address, tls: client::tls(&pki.ca(), Some(&pair)) };
        let mut clerk = Client::try_connect_to(address, &direct.tls, 10 * SECOND).expect("the cloud reaches itself");
        let made = clerk.write("POST", "/api/v1/namespaces", &[], r#"{"metadata":{"name":"lab"}}"#);
        assert_eq!(made.status(), 201, "{}", made.text());
        for name in ["clock", "direct", "proxied"] {
            assert_eq!(clerk.write("POST", MAPS, &[], &map(name, "0")).status(), 201);
        }
        let clock = Arc::new(Clock::start(direct.clone()));
        link.enter_edge();
        let program = [env!("CARGO_BIN_EXE_lite-apiserver").to_owned()];
        let proxy = Proxy::start_with_kubeconfig(&program, pki, &control_plane.admin(), flags);
        let serving_ca = proxy.data().join("pki/ca.crt");
        let tls = client::tls(&serving_ca, Some(&pair));
        let proxied = Way { address: SocketAddr::from(([127, 0, 0, 1], proxy.port)), tls };
        Lab { proxy, clock, direct, proxied, _control_plane: control_plane, link, _folder: folder }
    }

    /// Clear weather, and everybody knows.
    fn clear_up(&self) {
        self.link.set(Weather::CLEAR);
        self.proxy.await_link(true);
    }
}

/// What happens, and how long after the beginning.
type Forecast = Vec<(Duration, Step)>;

#[derive(Clone, Copy)]
enum Step {
    Set(Weather),
    Forget,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// All weathers: what each is called, what it is.
fn forecasts(span: Duration) -> Vec<(&'static str, Forecast)> {
    let calm = Wind::CALM;
    let all_the_time = |weather| vec![(Duration::ZERO, Step::Set(weather))];
    let between = |weather| vec![(span / 4, Step::Set(weather)), (span * 3 / 4, Step::Set(Weather::CLEAR))];
    let flapping = |half: Duration| {
        let times = 0..(span.as_millis() / half.as_millis()) as u32;
        let weather = |i| if i % 2 == 0 { Weather::BlackHole } else { Weather::CLEAR };
        times.map(|i| (half * i, Step::Set(weather(i)))).collect()
    };
    vec![
        ("clear", all_the_time(Weather::CLEAR)),
        ("600 ms there and back", all_the_time(Weather::both(Wind { delay: ms(300), ..calm }))),
        ("5 % lost", all_the_time(Weather::both(Wind { loss: 5, ..calm }))),
        ("30 % lost", all_the_time(Weather::both(Wind { loss: 30, ..calm }))),
        ("64 kbit/s", all_the_time(Weather::both(Wind { rate: 64_000, ..calm }))),
        ("20 % twice, 20 % overtaken", all_the_time(Weather::both(Wind { repeated: 20, overtaken: 20, ..calm }))),
        ("30 % lost on the way down only", all_the_time(Weather::Blows { up: calm, down: Wind { loss: 30, ..calm } })),
        ("black hole, mended", between(Weather::BlackHole)),
        ("resets, mended", between(Weather::Resets)),
        ("connections forgotten", vec![(span / 4, Step::Forget)]),
        ("flapping each 5 s", flapping(5 * SECOND)),
    ]
}

/// What was seen on one way in one weather.
struct Observed {
    read: Seen,
    written: Seen,
    watched: Watched,
}

fn observe(lab: &Lab, way: &Way, name: &str, forecast: &Forecast) -> Observed {
    let watcher = Watcher::start(way, &lab.clock);
    eventually("the watch has begun", || watcher.tick() > 0);
    let (begun, end) = (Instant::now(), Instant::now() + span());
    let (read, written) = std::thread::scope(|threads| {
        let read = threads.spawn(|| clients::read(way, &lab.clock, end));
        let written = threads.spawn(|| clients::write(way, name, end));
        for (at, step) in forecast {
            std::thread::sleep(at.saturating_sub(begun.elapsed()));
            match step {
                Step::Set(weather) => lab.link.set(*weather),
                Step::Forget => lab.link.forget_connections(),
            }
        }
        (read.join().expect("a reader"), written.join().expect("a writer"))
    });
    lab.clear_up();
    let now = lab.clock.tick();
    if name == "proxied" {
        let caught_up = Instant::now();
        while watcher.tick() < now {
            assert!(caught_up.elapsed() < 40 * SECOND, "the watch has not caught up: {} of {now}", watcher.tick());
            std::thread::sleep(ms(50));
        }
    }
    Observed { read, written, watched: watcher.end() }
}

fn percentile(durations: &[Duration], percent: usize) -> String {
    let mut sorted = durations.to_vec();
    sorted.sort();
    match sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))) {
        None => "-".to_owned(),
        Some(duration) if *duration < 10 * SECOND => format!("{}", duration.as_millis()),
        Some(duration) => format!("{:.0}s", duration.as_secs_f32()),
    }
}

impl Observed {
    fn print(&self, way: &str) {
        let seen = |seen: &Seen| {
            let p = |list: &[Duration], percents: &[usize]| {
                percents.iter().map(|percent| percentile(list, *percent)).collect::<Vec<_>>().join("/")
            };
            let refused = if seen.refused.is_empty() {
                String::new()
            } else {
                format!(", {} refused in {}", seen.refused.len(), p(&seen.refused, &[50, 100]))
            };
            let failed = if seen.failed.is_empty() { String::new() } else { format!(", {} FAILED", seen.failed.len()) };
            let old = if seen.age.is_empty() { String::new() } else { format!(", old {}", p(&seen.age, &[50, 99])) };
            format!("{:>3} in {}{old}{refused}{failed}", seen.took.len(), p(&seen.took, &[50, 99, 100]))
        };
        let watched = &self.watched;
        println!(
            "  {way:<7} | read {:<52} | written {:<44} | watched {:>3}, late {}/{}, ended {}, broke {}, listed again {}",
            seen(&self.read),
            seen(&self.written),
            watched.lag.len(),
            percentile(&watched.lag, 50),
            percentile(&watched.lag, 100),
            watched.ended.len(),
            watched.broke,
            watched.relisted,
        );
    }
}

#[test]
fn every_kind_of_weather() {
    let _alone = scene::alone();
    let lab = Lab::start(&[]);
    println!(
        "\nmilliseconds: to the first byte, 50 % / 99 % / all; how old what was read was, 50 % / 99 %; how late events came"
    );
    let wanted = std::env::var("LAB_WEATHER").unwrap_or_default();
    for (name, forecast) in forecasts(span()).into_iter().filter(|(name, _)| name.contains(&wanted)) {
        println!("{name}");
        observe(&lab, &lab.direct, "direct", &forecast).print("direct");
        let proxied = observe(&lab, &lab.proxied, "proxied", &forecast);
        proxied.print("proxied");
        assert_eq!(proxied.read.failed, Vec::<String>::new(), "{name}: a read failed");
        assert_eq!(proxied.read.refused, Vec::<Duration>::new(), "{name}: a read was refused");
        assert!(
            proxied.read.took.iter().all(|took| *took < FIRST_ANSWER),
            "{name}: {:?}",
            proxied.read.took.iter().max()
        );
        assert_eq!(proxied.watched.backwards, 0, "{name}: an object went back in time");
        assert_eq!(proxied.written.failed, Vec::<String>::new(), "{name}: a writer was left without an answer");
    }
    println!("{} bytes of memory at most\n", lab.proxy.peak_memory());
}

#[test]
fn held_watches_end_soon_in_a_black_hole_and_move_over_evenly_once_it_is_mended() {
    const WATCHES: usize = 50;
    let _alone = scene::alone();
    let lab = Lab::start(&[]);
    let watchers: Vec<_> = (0..WATCHES).map(|_| Watcher::start(&lab.proxied, &lab.clock)).collect();
    eventually("all have begun", || watchers.iter().all(|w| w.tick() > 0));
    std::thread::sleep(2 * SECOND);

    lab.link.set(Weather::BlackHole);
    let cut = Instant::now();
    let ends = |at_least: usize| watchers.iter().all(|w| w.ends().len() >= at_least);
    let noticed = |since: Instant, number: usize| {
        let mut spans: Vec<_> = watchers.iter().map(|w| w.ends()[number].saturating_duration_since(since)).collect();
        spans.sort();
        spans
    };
    let patience = Instant::now();
    while !ends(1) {
        assert!(patience.elapsed() < 30 * SECOND, "the black hole is not noticed");
        std::thread::sleep(ms(20));
    }
    let spans = noticed(cut, 0);
    println!(
        "\nblack hole: {WATCHES} watches ended {:.1} to {:.1} s after the cut",
        secs(spans[0]),
        secs(spans[WATCHES - 1])
    );
    // They are held from the record now.
    std::thread::sleep(8 * SECOND);
    lab.link.set(Weather::CLEAR);
    let mended = Instant::now();
    lab.proxy.await_link(true);
    let found = mended.elapsed();
    while !ends(2) {
        assert!(mended.elapsed() < 40 * SECOND, "the watches do not move over");
        std::thread::sleep(ms(20));
    }
    let spans = noticed(mended, 1);
    let first = spans[0];
    let most = spans.iter().map(|from| spans.iter().filter(|s| **s >= *from && **s < *from + ms(500)).count()).max();
    let most = most.unwrap_or(WATCHES);
    println!(
        "mended: found after {:.1} s; {WATCHES} watches moved over in {:.1} s, at most {most} of them in any half second",
        secs(found),
        secs(spans[WATCHES - 1].saturating_sub(first)),
    );
    // Evenly it would be a tenth; a busy machine wakes threads in heaps.
    assert!(most <= WATCHES / 4, "{most} in half a second");
    let now = lab.clock.tick();
    eventually("all have caught up", || watchers.iter().all(|w| w.tick() >= now));
    for watcher in watchers {
        let watched = watcher.end();
        assert_eq!((watched.backwards, watched.broke, watched.relisted), (0, 0, 0));
    }
}

fn secs(span: Duration) -> f32 {
    span.as_secs_f32()
}

/// Threads, open files and private resident bytes of the proxy: what of its own program has been run is no growth.
fn footprint(pid: u32) -> (usize, usize, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let number = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line");
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
    };
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("/proc").count();
    (number("Threads:") as usize, files, number("RssAnon:") << 10)
}

/// How long the soak lasts, in seconds; `SOAK_SECONDS` in the environment.
fn soak_span() -> Duration {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(120))
}

#[test]
fn a_soak_in_random_weather_leaves_nothing_behind() {
    const WATCHES: usize = 50;
    const READERS: usize = 2;
    // Connections that wait in the pool for the next request, and files of the record that were not open at first; each of
    // some dozen weathers ends what fifty watches and two readers have, so a leak would be many times that.
    const IDLE_FILES: usize = 12;
    let _alone = scene::alone();
    let lab = Lab::start(&[]);
    // What it holds when it is at rest, with as many watches.
    let watchers: Vec<_> = (0..WATCHES).map(|_| Watcher::start(&lab.proxied, &lab.clock)).collect();
    eventually("all have begun", || watchers.iter().all(|w| w.tick() > 0));
    let (threads, files, _) = footprint(lab.proxy.pid());

    let (begun, end, ended) = (Instant::now(), Instant::now() + soak_span(), AtomicBool::new(false));
    let calm = Wind::CALM;
    let kinds = [
        Weather::CLEAR,
        Weather::both(Wind { delay: ms(300), ..calm }),
        Weather::both(Wind { loss: 10, ..calm }),
        Weather::both(Wind { loss: 30, ..calm }),
        Weather::both(Wind { rate: 256_000, ..calm }),
        Weather::both(Wind { repeated: 20, overtaken: 20, ..calm }),
        Weather::BlackHole,
        Weather::Resets,
    ];
    let mut samples = Vec::new();
    let mut dice = 0x2545_f491_u32;
    let reads = std::thread::scope(|threads| {
        let read = || clients::read(&lab.proxied, &lab.clock, end);
        let readers: Vec<_> = (0..READERS).map(|_| threads.spawn(read)).collect();
        let mut last = 0;
        while Instant::now() < end {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let kind = (dice >> 16) as usize % (kinds.len() + 1);
            match kinds.get(kind) {
                Some(weather) => lab.link.set(*weather),
                None => lab.link.forget_connections(),
            }
            std::thread::sleep(
                ms(2000 + u64::from(dice >> 8) % 6000).min(end.saturating_duration_since(Instant::now())),
            );
            let minute = (begun.elapsed().as_secs() / 30) as usize;
            if minute > last {
                last = minute;
                samples.push((begun.elapsed(), footprint(lab.proxy.pid())));
            }
        }
        ended.store(true, Ordering::SeqCst);
        readers.into_iter().map(|r| r.join().expect("a reader")).collect::<Vec<_>>()
    });
    lab.clear_up();
    let now = lab.clock.tick();
    let patience = Instant::now();
    while !watchers.iter().all(|w| w.tick() >= now) {
        assert!(patience.elapsed() < 60 * SECOND, "not all watches have caught up");
        std::thread::sleep(ms(50));
    }
    println!(
        "\nsoak of {} s: {} watches, {} reads",
        begun.elapsed().as_secs(),
        WATCHES,
        reads.iter().map(|r| r.took.len()).sum::<usize>()
    );
    for (at, (threads, files, memory)) in &samples {
        println!("  {:>5} s: {threads} threads, {files} files, {} KB", at.as_secs(), memory >> 10);
    }
    for read in &reads {
        assert_eq!((&read.failed, &read.refused), (&Vec::new(), &Vec::new()), "a read failed");
    }
    // What a link's end leaves takes TCP some time to give up, here and in its peer.
    let rests = || {
        let (now_threads, now_files, _) = footprint(lab.proxy.pid());
        now_threads <= threads + 3 && now_files <= files + IDLE_FILES
    };
    let patience = Instant::now();
    while !rests() {
        assert!(
            patience.elapsed() < 90 * SECOND,
            "left behind: {:?}, at rest {:?}",
            footprint(lab.proxy.pid()),
            (threads, files)
        );
        std::thread::sleep(ms(200));
    }
    println!("  at rest: {:?}, before: {:?}", footprint(lab.proxy.pid()), (threads, files));
    for watcher in watchers {
        assert_eq!(watcher.end().backwards, 0, "an object went back in time");
    }
}
