//! The bad link itself: two network namespaces, "cloud" and "edge", whose only way to each other is this program. It carries
//! their packets from one TUN device to the other and does to them what networks do: delays, loses, repeats and overtakes
//! them, lets only so many through, forgets connections, answers with resets, or swallows everything.
//!
//! In user space, because kernels come without netem (this one's does). Needs root and `/dev/net/tun`; the namespaces and
//! devices go with the value.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Documentation addresses (RFC 5737).
pub const CLOUD: &str = "198.51.100.1";
const EDGE: &str = "198.51.100.2";

/// What becomes of packets in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Wind {
    /// How long each takes.
    pub delay: Duration,
    /// Of a hundred, so many are lost.
    pub loss: u32,
    /// Of a hundred, so many come twice.
    pub repeated: u32,
    /// Of a hundred, so many take 50 ms longer, and are overtaken.
    pub overtaken: u32,
    /// Bits a second; 0: no limit. At most a second's worth waits.
    pub rate: u64,
}

/// What the link does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weather {
    /// Up (to the cloud) and down.
    Blows { up: Wind, down: Wind },
    /// Nothing passes.
    BlackHole,
    /// Whatever is sent to the cloud is answered with a reset.
    Resets,
}

impl Weather {
    pub const CLEAR: Weather = Weather::both(Wind::CALM);

    pub const fn both(wind: Wind) -> Weather {
        Weather::Blows { up: wind, down: wind }
    }
}

impl Wind {
    pub const CALM: Wind = Wind { delay: Duration::ZERO, loss: 0, repeated: 0, overtaken: 0, rate: 0 };
}

/// The running link.
pub struct Link {
    shared: Arc<Shared>,
    carrier: Option<JoinHandle<()>>,
    namespaces: [String; 2],
}

struct Shared {
    weather: Mutex<Weather>,
    /// Connections (both ports) of which nothing passes any more.
    forgotten: Mutex<HashSet<(u16, u16)>>,
    /// All that were ever seen.
    seen: Mutex<HashSet<(u16, u16)>>,
    ended: AtomicBool,
}

impl Link {
    /// Makes the namespaces and joins them, in clear weather.
    pub fn new() -> Link {
        let id = std::process::id() % 100_000;
        let devices = [format!("lcloud{id}"), format!("ledge{id}")];
        let namespaces = [format!("lite-cloud-{id}"), format!("lite-edge-{id}")];
        let ends = [tun(&devices[0]), tun(&devices[1])];
        for (namespace, device, address) in [(&namespaces[0], &devices[0], CLOUD), (&namespaces[1], &devices[1], EDGE)]
        {
            ip(&["netns", "add", namespace]);
            ip(&["link", "set", device, "netns", namespace]);
            ip(&["-n", namespace, "addr", "add", &format!("{address}/24"), "dev", device]);
            ip(&["-n", namespace, "link", "set", device, "mtu", "1400", "up"]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        let shared = Arc::new(Shared {
            weather: Mutex::new(Weather::CLEAR),
            forgotten: Mutex::default(),
            seen: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let carrier = Some(std::thread::spawn(move || own.carry(ends)));
        Link { shared, carrier, namespaces }
    }

    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().expect("weather") = weather;
    }

    /// Half-open: of the connections that there are nothing passes any more, as when a router forgets them; new ones do.
    pub fn forget_connections(&self) {
        let seen = self.shared.seen.lock().expect("seen").clone();
        self.shared.forgotten.lock().expect("forgotten").extend(seen);
    }

    /// From now on this thread, and what it starts, is in the cloud.
    pub fn enter_cloud(&self) {
        enter(&self.namespaces[0]);
    }

    /// From now on this thread, and what it starts, is on the edge.
    pub fn enter_edge(&self) {
        enter(&self.namespaces[1]);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).expect("a namespace");
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind)).expect("root enters it");
}

fn ip(arguments: &[&str]) {
    let ended = Command::new("ip").args(arguments).output();
    let ended =
        ended.unwrap_or_else(|e| panic!("the link laboratory needs `ip` (iproute2), which does not start: {e}"));
    assert!(
        ended.status.success(),
        "the link laboratory needs root: ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&ended.stderr)
    );
}

/// A TUN device (`linux/if_tun.h`), in the namespace of this thread; it goes with the file.
#[expect(unsafe_code, reason = "an ioctl that nobody has wrapped")]
fn tun(name: &str) -> File {
    /// `_IOW('T', 202, int)`
    const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    /// `struct ifreq`
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.unwrap_or_else(|e| panic!("the link laboratory needs root and /dev/net/tun: {e}"));
    let mut request = Request { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the opcode reads a `struct ifreq`, which `Request` is by size and layout.
    let made = unsafe { rustix::ioctl::ioctl(&file, rustix::ioctl::Setter::<TUNSETIFF, Request>::new(request)) };
    made.unwrap_or_else(|e| panic!("the link laboratory needs root: no TUN device: {e}"));
    rustix::io::ioctl_fionbio(&file, true).expect("non-blocking");
    file
}

/// A packet on its way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Travelling {
    arrives: Instant,
    number: u64,
    packet: Vec<u8>,
}

/// One direction.
#[derive(Default)]
struct Lane {
    travelling: BinaryHeap<Reverse<Travelling>>,
    /// When what was let through last is through.
    busy_until: Option<Instant>,
}

impl Shared {
    /// Carries packets until the end; `ends` are the cloud's and the edge's.
    fn carry(&self, mut ends: [File; 2]) {
        let mut lanes = [Lane::default(), Lane::default()];
        let (mut number, mut dice) = (0, Dice(0x9e37_79b9_7f4a_7c15));
        let mut packet = vec![0; 2048];
        while !self.ended.load(Ordering::SeqCst) {
            let now = Instant::now();
            // Lane 0 goes down, from the cloud to the edge.
            for (lane, to) in lanes.iter_mut().zip([1, 0]) {
                while lane.travelling.peek().is_some_and(|Reverse(next)| next.arrives <= now) {
                    let Some(Reverse(next)) = lane.travelling.pop() else { break };
                    // A queue that is full drops, as any router's.
                    let _ = ends[to].write(&next.packet);
                }
            }
            let next = lanes.iter().filter_map(|lane| lane.travelling.peek()).map(|Reverse(t)| t.arrives).min();
            let wait = next.map_or(Duration::from_millis(20), |next| next.saturating_duration_since(now));
            let wait = wait.min(Duration::from_millis(20));
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            let mut ready = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
            match poll(&mut ready, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => panic!("poll: {e}"),
            }
            let ready = [0, 1].map(|place| !ready[place].revents().is_empty());
            for from in [0, 1].into_iter().filter(|from| ready[*from]) {
                while let Ok(length) = ends[from].read(&mut packet) {
                    let packet = &packet[..length];
                    let weather = *self.weather.lock().expect("weather");
                    if self.is_lost(packet) {
                        continue;
                    }
                    let wind = match (weather, from) {
                        (Weather::Blows { down, .. }, 0) => down,
                        (Weather::Blows { up, .. }, _) => up,
                        (Weather::Resets, 1) => {
                            if let Some(reset) = reset_of(packet) {
                                let _ = ends[1].write(&reset);
                            }
                            continue;
                        }
                        (Weather::BlackHole | Weather::Resets, _) => continue,
                    };
                    lanes[from].take(packet, wind, &mut number, &mut dice);
                }
            }
        }
    }

    fn is_lost(&self, packet: &[u8]) -> bool {
        let Some(connection) = connection_of(packet) else { return false };
        self.seen.lock().expect("seen").insert(connection);
        self.forgotten.lock().expect("forgotten").contains(&connection)
    }
}

impl Lane {
    fn take(&mut self, packet: &[u8], wind: Wind, number: &mut u64, dice: &mut Dice) {
        if dice.hundred() < wind.loss {
            return;
        }
        let now = Instant::now();
        let mut leaves = now;
        if let Some(span) = (packet.len() as u64 * 8 * 1_000_000_000).checked_div(wind.rate) {
            let begins = self.busy_until.map_or(now, |busy| busy.max(now));
            if begins - now > Duration::from_secs(1) {
                return;
            }
            leaves = begins + Duration::from_nanos(span);
            self.busy_until = Some(leaves);
        }
        let copies = if dice.hundred() < wind.repeated { 2 } else { 1 };
        for _ in 0..copies {
            let late = if dice.hundred() < wind.overtaken { Duration::from_millis(50) } else { Duration::ZERO };
            *number += 1;
            let arrives = leaves + wind.delay + late;
            self.travelling.push(Reverse(Travelling { arrives, number: *number, packet: packet.to_vec() }));
        }
    }
}

/// A small random sequence, the same each time (xorshift64).
struct Dice(u64);

impl Dice {
    fn hundred(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % 100) as u32
    }
}

/// Where the TCP header of an IPv4 packet begins (RFC 791 section 3.1).
fn tcp_of(packet: &[u8]) -> Option<usize> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    (packet[0] >> 4 == 4 && packet.get(9) == Some(&6) && packet.len() >= header + 20).then_some(header)
}

/// The ports of a packet's connection, the smaller one first; `None`: it is not of TCP.
fn connection_of(packet: &[u8]) -> Option<(u16, u16)> {
    let tcp = tcp_of(packet)?;
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (a, b) = (port(tcp), port(tcp + 2));
    Some((a.min(b), a.max(b)))
}

/// The reset that answers a packet (RFC 9293 section 3.5.2); `None`: it is one itself, or not of TCP.
fn reset_of(packet: &[u8]) -> Option<Vec<u8>> {
    const RST_ACK: u8 = 0x14;
    let tcp = tcp_of(packet)?;
    let segment = &packet[tcp..];
    let flags = segment[13];
    if flags & 0x04 != 0 {
        return None;
    }
    let number = |at: usize| u32::from_be_bytes([segment[at], segment[at + 1], segment[at + 2], segment[at + 3]]);
    let data = segment.len() - usize::from(segment[12] >> 4) * 4;
    // SYN and FIN count as one each.
    let length = data as u32 + u32::from(flags & 2 != 0) + u32::from(flags & 1 != 0);
    let sequence = if flags & 0x10 != 0 { number(8) } else { 0 };
    let mut reset = vec![0; 40];
    reset[0] = 0x45;
    reset[3] = 40;
    (reset[8], reset[9]) = (64, 6);
    reset[12..16].copy_from_slice(&packet[16..20]);
    reset[16..20].copy_from_slice(&packet[12..16]);
    let sum = checksum(&reset[..20], 0);
    reset[10..12].copy_from_slice(&sum.to_be_bytes());
    reset[20..22].copy_from_slice(&segment[2..4]);
    reset[22..24].copy_from_slice(&segment[0..2]);
    reset[24..28].copy_from_slice(&sequence.to_be_bytes());
    reset[28..32].copy_from_slice(&number(4).wrapping_add(length).to_be_bytes());
    reset[32] = 0x50;
    reset[33] = RST_ACK;
    // The pseudo-header: addresses, protocol, length.
    let pseudo = reset[12..20].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>() + 6 + 20;
    let sum = checksum(&reset[20..], pseudo);
    reset[36..38].copy_from_slice(&sum.to_be_bytes());
    Some(reset)
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start + bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
