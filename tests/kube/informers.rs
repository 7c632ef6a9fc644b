//! Real informers through twenty cuts: client-go's newest with and without WatchList, and an old one, in JSON and in
//! protobuf, hold through the proxy what others hold that ask kube-apiserver itself, while somebody writes all the time.
//!
//! `INFORMERS_SEED` chooses the cuts and the writes; it is printed.

use crate::bed::Program;
use crate::cable::Cable;
use crate::scene::Scene;
use crate::support::{TempDir, eventually};
use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

/// How often the cable is cut, and in how many of these the proxy is killed, too.
const CUTS: u32 = 20;
const KILLS: u32 = 5;

/// Whoever lists for the first time while the cable is cut has all of it within this time.
const IN_THE_DARK: Duration = Duration::from_secs(1);

/// client-go waits up to 30 s, and as much again by chance, before it tries again what has failed several times.
const BACKED_OFF: Duration = Duration::from_secs(70);

/// Of the watches that are held in the dark, some 500, so many may be told to list again: the cut came when another watch
/// of the view had been sent something, and they had not.
const OVERTAKEN: u32 = 10;

/// A program that is led by lines; killed when dropped.
struct Led {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
    folder: TempDir,
    /// The lists that are accounted for, and the watches that were too short for client-go.
    listed: u32,
    short: u32,
    /// Lists that are to come because of a kill.
    excused: u32,
}

/// What informers hold: kind and name, to uid and resourceVersion.
type Held = BTreeMap<String, String>;

/// What happened to the informers of one process.
#[derive(Debug, Default)]
struct Counts {
    /// Lists, and watches that begin with one.
    lists: u32,
    watches: u32,
    /// How often a position was called too old, and what else went wrong.
    expired: u32,
    errors: u32,
    /// How often an object was seen at an older version than before.
    backwards: u32,
}

/// How many kinds each process watches.
const KINDS: u32 = 4;

#[derive(Clone, Copy)]
struct Variety {
    name: &'static str,
    old: bool,
    encoding: &'static str,
    watch_list: bool,
}

const VARIETIES: [Variety; 6] = [
    Variety { name: "newest, JSON, WatchList", old: false, encoding: "json", watch_list: true },
    Variety { name: "newest, protobuf, WatchList", old: false, encoding: "protobuf", watch_list: true },
    Variety { name: "newest, JSON", old: false, encoding: "json", watch_list: false },
    Variety { name: "newest, protobuf", old: false, encoding: "protobuf", watch_list: false },
    Variety { name: "0.20, JSON", old: true, encoding: "json", watch_list: false },
    Variety { name: "0.20, protobuf", old: true, encoding: "protobuf", watch_list: false },
];

#[test]
fn informers_hold_the_same_through_twenty_cuts() {
    let mut random = Random::seeded();
    let mut scene = Scene::start();
    scene.widgets();
    scene.namespace("churn");
    let mut churner = Led::churner(&scene.control_plane.admin(), random.next());
    let mut direct = Led::informers("direct", &scene.control_plane.admin(), VARIETIES[3]);
    direct.synced();
    let mut through: Vec<Led> = VARIETIES.iter().map(|v| Led::informers(v.name, &scene.for_clients(), *v)).collect();
    for led in &mut through {
        led.synced();
    }
    same(&mut churner, &mut direct, &mut through);

    let mut expired = 0;
    for cut in 0..CUTS {
        churner.say("resume");
        std::thread::sleep(random.within(200, 2500));
        let cable = if random.next().is_multiple_of(2) { Cable::BlackHole } else { Cable::Refused };
        scene.relay.set(cable);
        std::thread::sleep(random.within(0, 3000));
        let killed = cut % (CUTS / KILLS) == 1;
        if killed {
            scene.proxy.kill();
            std::thread::sleep(random.within(0, 1500));
            scene.proxy.boot();
        }
        if cut % 2 == 1 {
            newcomer(&scene, VARIETIES[random.next() as usize % VARIETIES.len()], &mut through);
        }
        scene.relay.set(Cable::Whole);
        let mended = Instant::now();
        scene.proxy.await_link(true);
        let found = mended.elapsed();
        std::thread::sleep(random.within(0, 2500));
        let (objects, settled) = same(&mut churner, &mut direct, &mut through);
        let overtaken = scene.proxy.log().matches("held from the record (Expired)").count() as u32;
        let (mut again, mut logs) = (0, String::new());
        for led in &mut through {
            let lists = led.listed_again(killed);
            if lists > 0 {
                logs.push_str(&format!("\n{} lists again:\n{}", led.name, led.log()));
            }
            again += lists;
        }
        let expected = overtaken - expired;
        assert!(again <= expected, "{again} lists again, for {expected} watches that expired{logs}");
        expired = overtaken;
        println!(
            "cut {:2}, {cable:?}: found mended after {:.1} s, {objects} objects the same {:.1} s after the writes ended",
            cut + 1,
            found.as_secs_f32(),
            settled.as_secs_f32()
        );
    }

    println!("{expired} watches were overtaken by others of their view just before a cut");
    assert!(expired <= OVERTAKEN, "{expired} watches were told to list again");
    let (_, of_direct) = direct.dump();
    println!("direct: {of_direct:?}");
    for led in &mut through {
        let (_, counts) = led.dump();
        println!("{}: {counts:?}", led.name);
        assert_eq!(counts.backwards, 0, "{}: an object went back in time", led.name);
        assert_eq!(counts.expired, of_direct.expired, "{}: {}", led.name, led.log());
    }
}

/// At a quiet point all hold the same; how many objects, and after what time.
fn same(churner: &mut Led, direct: &mut Led, through: &mut [Led]) -> (usize, Duration) {
    churner.say("pause");
    churner.hear_first("paused");
    let begun = Instant::now();
    let mut last: (Held, &str, Held) = Default::default();
    let settle = || {
        let (wanted, _) = direct.dump();
        let differs = through.iter_mut().find_map(|led| {
            let (held, _) = led.dump();
            (held != wanted).then_some((led.name, held))
        });
        let done = differs.is_none();
        let (name, held) = differs.unwrap_or_default();
        last = (wanted, name, held);
        done
    };
    let settled = within(BACKED_OFF, settle);
    let (wanted, name, held) = last;
    assert!(!wanted.is_empty(), "there is nothing to hold");
    if !settled {
        let differ = |a: &Held, b: &Held| -> Vec<String> {
            a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, v)| format!("{k} {v}")).collect()
        };
        let log = through.iter().find(|led| led.name == name).map(Led::log).unwrap_or_default();
        panic!("{name} lacks {:#?}\nand holds {:#?}\n{log}", differ(&wanted, &held), differ(&held, &wanted));
    }
    (wanted.len(), begun.elapsed())
}

/// Who comes while the cable is cut has at once what they hold that were there before.
fn newcomer(scene: &Scene, variety: Variety, through: &mut [Led]) {
    scene.proxy.await_link(false);
    let mut led = Led::informers("newcomer", &scene.for_clients(), variety);
    let took = led.synced();
    println!("in the dark a newcomer ({}) has all after {} ms", variety.name, took.as_millis());
    assert!(took < IN_THE_DARK, "it took {took:?}: {}", led.log());
    eventually("the newcomer holds what the others do", || {
        let (held, _) = led.dump();
        through.iter_mut().find(|t| t.name == variety.name).expect("its like").dump().0 == held
    });
}

fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if done() {
            return true;
        }
        if begun.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Led {
    fn churner(kubeconfig: &Path, seed: u64) -> Led {
        let seed = (seed >> 1).to_string();
        Led::start("churner", &Program::Informers.built(), "churn", kubeconfig, &seed, true)
    }

    fn informers(name: &'static str, kubeconfig: &Path, variety: Variety) -> Led {
        let program = if variety.old { Program::OldInformers } else { Program::Informers };
        Led::start(name, &program.built(), "watch", kubeconfig, variety.encoding, variety.watch_list)
    }

    fn start(name: &'static str, program: &Path, work: &str, kubeconfig: &Path, last: &str, watch_list: bool) -> Led {
        let folder = TempDir::new();
        let mut child = Command::new(program)
            .arg(work)
            .arg(kubeconfig)
            .arg(last)
            .env_clear()
            .env("KUBE_FEATURE_WatchListClient", watch_list.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("log")).expect("a log"))
            .spawn()
            .expect("it starts");
        let (told, output) = channel();
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| told.send(line)));
        let input = child.stdin.take().expect("its input");
        Led { name, child, input, output, folder, listed: KINDS, short: 0, excused: 0 }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap_or_else(|e| panic!("{}: {e}: {}", self.name, self.log()));
    }

    fn hear(&self) -> String {
        let heard = self.output.recv_timeout(Duration::from_secs(30));
        heard.unwrap_or_else(|e| panic!("{}: {e}: {}", self.name, self.log()))
    }

    /// The rest of the next line, which begins with this word.
    fn hear_first(&self, word: &str) -> String {
        let line = self.hear();
        let rest = line.strip_prefix(word).unwrap_or_else(|| panic!("{}: {line}", self.name));
        rest.trim().to_owned()
    }

    /// How long the first lists took.
    fn synced(&mut self) -> Duration {
        Duration::from_millis(self.hear_first("synced").parse().expect("milliseconds"))
    }

    fn dump(&mut self) -> (Held, Counts) {
        self.say("dump");
        let (mut held, mut counts) = (Held::new(), Counts::default());
        loop {
            let line = self.hear();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["object", kind, name, uid, version] => {
                    held.insert(format!("{kind} {name}"), format!("{uid} {version}"));
                }
                ["counts", _, lists, initials, watches, expired, errors, backwards] => {
                    let number = |text: &str| -> u32 { text.parse().expect("a number") };
                    counts.lists += number(lists) + number(initials);
                    counts.watches += number(watches);
                    counts.expired += number(expired);
                    counts.errors += number(errors);
                    counts.backwards += number(backwards);
                }
                ["end"] => return (held, counts),
                _ => panic!("{}: {line}", self.name),
            }
        }
    }

    /// How many kinds have been listed again since this was last asked, but for those whose watch was not a second old
    /// when the proxy was killed: client-go takes that for an error (`reflector.go`, "very short watch"), and lists again
    /// once it has waited, for up to half a minute.
    fn listed_again(&mut self, killed: bool) -> u32 {
        let lists = self.dump().1.lists;
        let short = self.log().matches("very short watch").count() as u32;
        if killed {
            self.excused += short - self.short;
        }
        let again = lists - self.listed;
        let excused = again.min(self.excused);
        self.excused -= excused;
        (self.listed, self.short) = (lists, short);
        again - excused
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Steele and others' splitmix64: enough for choosing.
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let seed =
            env::var("INFORMERS_SEED").map_or_else(|_| clock(), |s| s.parse().expect("INFORMERS_SEED: a number"));
        println!("INFORMERS_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn within(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}
