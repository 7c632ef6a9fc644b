//! Power cuts. A *life* is a short history of a store on a disk that remembers what was done to it ([`disk`]). The power
//! goes after each operation of a life, in every way that the disk allows, and from what is left the store is opened again:
//!
//! - opening, and reading all views, fails for none of them, and nothing counts as damaged (but headers that are torn);
//! - each view is a state that it had, whole: none from before the last flush that had returned, none from after the cut;
//! - what was told of a view before it was read is of a state that it had; and since when it is unchanged is no lie;
//! - the store works on: what is recorded then, and flushed, is there after the next cut, and nothing is left over.
//!
//! Where a cut may leave no more than [`Effort::disks`] disks, each of them is tried; else those that miss, or have, all but
//! one thing, and a random sample (the same each time) up to that number. Disks that look the same are opened once. The
//! numbers are printed (`cargo test power_tests -- --nocapture`); `POWER_CUTS=n` multiplies the limits by n.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::contract::{Dice, key, read, read_document};
use super::{FileOptions, FileStore, Kind, Store, ViewKey};

mod disk;
mod lives;

use disk::{Image, PowerDisk};

const ROOT: &str = "/lib/store";

/// Of these engines the operations on the disk are ours to see.
#[derive(Clone, Copy)]
struct Engine {
    name: &'static str,
    /// Opens a store that makes nothing durable unless it is told to.
    open: fn(PowerDisk) -> Arc<dyn Store>,
    /// Whether what has been committed and is not durable is there after the process has been killed.
    outlives_a_kill: bool,
}

const FILE: Engine = Engine { name: "file", open: open_file, outlives_a_kill: true };

fn open_file(disk: PowerDisk) -> Arc<dyn Store> {
    let options = FileOptions { root: ROOT.into(), flush_interval: Duration::from_secs(3600) };
    Arc::new(FileStore::open_on(Arc::new(disk), options).unwrap())
}

#[cfg(feature = "redb")]
const REDB: Engine = Engine { name: "redb", open: open_redb, outlives_a_kill: false };

#[cfg(feature = "redb")]
fn open_redb(disk: PowerDisk) -> Arc<dyn Store> {
    let options = super::contract::database_options(&std::path::Path::new(ROOT).join("db"));
    Arc::new(super::redb::open_on(&(Arc::new(disk) as Arc<dyn super::Disk>), &options).unwrap())
}

fn pods() -> ViewKey {
    key("/api/v1/pods")
}
/// In the same folder as the pods.
fn selected() -> ViewKey {
    ViewKey { query: "labelSelector=a".into(), ..pods() }
}
fn nodes() -> ViewKey {
    key("/api/v1/nodes")
}
fn page() -> ViewKey {
    key("/version")
}
/// In another scope.
fn elsewhere() -> ViewKey {
    ViewKey { scope: "cert:edge2".into(), ..pods() }
}

/// What a view holds.
#[derive(Clone, Debug, Default)]
struct State {
    text: String,
    since: Option<u64>,
    told: Told,
}

/// What is known of it before it is read.
type Told = Option<(bool, Option<u64>, usize, bool)>;

impl State {
    fn is(&self, found: &State) -> bool {
        // Less may be known, and nothing that is not so.
        self.text == found.text && found.since >= self.since
    }
}

/// What can be told of the views without reading them.
fn told(store: &dyn Store) -> Vec<Told> {
    let all = store.all();
    let of = |key: &ViewKey| {
        let info = all.iter().find(|info| info.key == *key)?;
        Some((info.kind == Kind::Collection, info.version, info.objects, info.complete))
    };
    [pods(), selected(), nodes(), page(), elsewhere()].iter().map(of).chain([None]).collect()
}

/// Reads all views.
fn look(store: &dyn Store) -> Vec<State> {
    let mut states = Vec::new();
    for key in [pods(), selected(), nodes(), page(), elsewhere()] {
        let (mut text, mut since) = ("nothing".to_owned(), None);
        if let Some(held) = read(store, &key) {
            let collection = store.collection(&key).unwrap().unwrap();
            since = collection.unchanged_since();
            let (complete, envelope) = (collection.info().complete, collection.envelope());
            let envelope = String::from_utf8_lossy(&envelope);
            assert!(since <= held.0, "unchanged since {since:?}, at {:?}", held.0);
            text = format!("{held:?} {complete} {envelope}");
        } else if let Some(body) = read_document(store, &key) {
            let document = store.document(&key).unwrap().unwrap();
            let head = (document.info.status, document.uid, document.version, document.head);
            text = format!("{head:?} {} bytes {:08x}", body.len(), crc32fast::hash(&body));
        }
        states.push(State { text, since, told: None });
    }
    states.push(State { text: format!("{:?}", store.note("n")), ..State::default() });
    for (state, told) in states.iter_mut().zip(told(store)) {
        state.told = told;
    }
    states
}

/// A history under way.
struct Life {
    engine: Engine,
    disk: PowerDisk,
    store: Option<Arc<dyn Store>>,
    /// The states of each view, and how long the disk's log was before each came to be.
    seen: Vec<Vec<(usize, State)>>,
    /// How long the log was when a flush returned, and which state of each view was the last one before it.
    durable: Vec<(usize, Vec<usize>)>,
    /// How many files are damaged, and the states before they were.
    rotten: u64,
    before: Vec<Vec<(usize, State)>>,
}

impl Life {
    fn begin(engine: Engine, image: Image) -> Self {
        let disk = PowerDisk::new(image);
        let store = (engine.open)(disk.clone());
        let seen: Vec<_> = look(&*store).into_iter().map(|state| vec![(0, state)]).collect();
        Self {
            engine,
            disk,
            store: Some(store),
            durable: vec![(0, vec![0; seen.len()])],
            seen,
            rotten: 0,
            before: Vec::new(),
        }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(self.store.as_ref().unwrap())
    }

    fn now(&self) -> Vec<State> {
        self.seen.iter().map(|states| states.last().unwrap().1.clone()).collect()
    }

    fn note(&mut self, began: usize) {
        for (states, state) in self.seen.iter_mut().zip(look(&**self.store.as_ref().unwrap())) {
            let last = &states.last().unwrap().1;
            if last.text != state.text || last.since != state.since {
                states.push((began, state));
            }
        }
    }

    /// Something that commits one transaction at most.
    fn step<T>(&mut self, act: impl FnOnce(&dyn Store) -> T) -> T {
        let began = self.disk.steps();
        let result = act(&*self.store());
        self.note(began);
        result
    }

    fn is_durable(&mut self) {
        let last = self.seen.iter().map(|states| states.len() - 1).collect();
        self.durable.push((self.disk.steps(), last));
    }

    fn flush(&mut self) {
        self.store().flush().unwrap();
        self.is_durable();
        self.note(self.disk.steps());
    }

    /// The process is killed, after so many more operations on the disk, which `act` asks for; another one starts.
    fn kill_in(&mut self, operations: usize, act: impl FnOnce(&dyn Store)) {
        self.disk.dies_after(operations);
        act(&*self.store());
        self.disk = self.disk.next_life();
        self.store = None;
        self.store = Some((self.engine.open)(self.disk.clone()));
        let steps = self.disk.steps();
        for (view, found) in look(&**self.store.as_ref().unwrap()).into_iter().enumerate() {
            let allowed = self.allowed(view, steps + 1);
            let allowed = if self.engine.outlives_a_kill { &allowed[allowed.len() - 1..] } else { allowed };
            assert!(allowed.iter().any(|(_, state)| state.is(&found)), "after a kill, {found:?} is not of {allowed:?}");
            self.seen[view].push((steps, found));
        }
    }

    fn kill(&mut self) {
        self.kill_in(0, |_| {});
    }

    /// The first of these bytes in any file rots, lastingly; whoever starts then finds it.
    fn rots(&mut self, bytes: &[u8]) {
        let files = self.disk.image().files();
        let find = |content: &[u8]| content.windows(bytes.len()).position(|at| at == bytes);
        let (path, at) = files.iter().find_map(|(path, content)| Some((path, find(content)?))).unwrap();
        self.store().flush().unwrap();
        self.disk = self.disk.next_life();
        self.store = None;
        self.disk.alter(path, |content| content[at] ^= 1);
        let before = std::mem::take(&mut self.seen);
        *self = Self { before, ..Self::begin(self.engine, self.disk.image()) };
        assert_eq!(self.store().stats().damaged, 1);
        self.rotten = 1;
    }

    /// The process ends as it should, and another one starts.
    fn restart(&mut self) {
        self.store = None;
        self.is_durable();
        self.disk = self.disk.next_life();
        self.store = Some((self.engine.open)(self.disk.clone()));
        self.note(self.disk.steps());
    }

    /// What a view may be when the power goes after so many operations.
    fn allowed(&self, view: usize, steps: usize) -> &[(usize, State)] {
        let durable = self.durable.iter().rev().find(|(at, _)| *at <= steps).unwrap();
        let states = &self.seen[view];
        let least = durable.1[view];
        let most = states.iter().rposition(|(began, _)| *began < steps).unwrap_or(0);
        &states[least..=most.max(least)]
    }
}

/// What becomes of a store that is opened on a disk after a power cut.
struct Outcome {
    found: Vec<State>,
    told: Vec<Told>,
    damaged: u64,
    life: Life,
}

/// Opens a store on what a power cut has left, and works on with it.
fn survive(engine: Engine, image: &Image) -> Outcome {
    let told = told(&*(engine.open)(PowerDisk::new(image.clone())));
    let mut life = Life::begin(engine, image.clone());
    let (found, damaged) = (life.now(), life.store().stats().damaged);
    lives::work_on(&mut life);
    let least = life.disk.cut(life.disk.steps(), 512).least();
    let last = life.now();
    nothing_is_left_over(&least);
    let again = (engine.open)(PowerDisk::new(least));
    for (last, again) in last.iter().zip(look(&*again)) {
        assert!(last.is(&again), "{last:?} was flushed, and is {again:?}");
    }
    assert_eq!(again.stats().damaged, 0, "when it was opened again");
    Outcome { found, told, damaged, life }
}

/// No view has two files when all is durable.
fn nothing_is_left_over(image: &Image) {
    let mut views = BTreeMap::new();
    for (path, _) in image.files() {
        let Some((view, number)) = path.rsplit_once('.') else {
            continue;
        };
        if number.parse::<u64>().is_ok() && !path.contains("/damaged/") {
            assert_eq!(views.insert(view.to_owned(), path.clone()), None, "beside {path}");
        }
    }
}

/// How much is tried.
#[derive(Clone, Copy)]
struct Effort {
    /// Disks at each cut.
    disks: u64,
    /// The bytes that are written whole or not at all.
    units: &'static [usize],
    /// Disks at each cut of the life that follows each cut; 0: no second cut.
    second: u64,
    /// Whether some of what is left may count as damaged: a header that is torn does, if it is longer than a unit.
    headers_tear: bool,
}

#[derive(Default)]
struct Tally {
    cuts: u64,
    sampled: u64,
    disks: u64,
    opened: u64,
    second: u64,
}

fn times() -> u64 {
    std::env::var("POWER_CUTS").map_or(1, |times| times.parse().expect("POWER_CUTS is a number"))
}

/// Lets the power go everywhere in a life.
fn cut_everywhere(what: &str, life: &Life, effort: Effort, known: &mut HashMap<u64, Outcome>, tally: &mut Tally) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for steps in 0..=life.disk.steps() {
        for &unit in effort.units {
            let cut = life.disk.cut(steps, unit);
            tally.cuts += 1;
            tally.sampled += u64::from(cut.count() > effort.disks);
            cut.each(effort.disks, &mut dice, |image| {
                tally.disks += 1;
                let tried = catch_unwind(AssertUnwindSafe(|| {
                    let outcome = known.entry(image.fingerprint()).or_insert_with(|| {
                        tally.opened += 1;
                        let mut outcome = survive(life.engine, &image);
                        // A record after what is lost tells of it until the file is read, and so after the second cut.
                        outcome.life.before.clone_from(&life.seen);
                        if effort.second > 0 {
                            let again = Effort { disks: effort.second, units: &[512], second: 0, ..effort };
                            let mut second = Tally::default();
                            cut_everywhere("second cut", &outcome.life, again, &mut HashMap::new(), &mut second);
                            tally.second += second.opened;
                        }
                        outcome
                    });
                    judge(life, steps, outcome, effort.headers_tear || unit < 512);
                }));
                if let Err(panic) = tried {
                    let sizes: Vec<_> = image.files().iter().map(|(path, is)| format!("{path} {}", is.len())).collect();
                    let story = life.disk.story(steps);
                    eprintln!("{what}, cut after {steps}, units of {unit}; left: {sizes:#?}\n{story}");
                    resume_unwind(panic);
                }
            });
        }
    }
}

fn judge(life: &Life, steps: usize, outcome: &Outcome, may_look_damaged: bool) {
    for (view, found) in outcome.found.iter().enumerate() {
        let allowed = life.allowed(view, steps);
        assert!(
            allowed.iter().any(|(_, state)| state.is(found)),
            "view {view} is {found:?}, and not one of {allowed:?}"
        );
        let told = &outcome.told[view];
        let mut states = life.seen[view].iter().chain(life.before.get(view).into_iter().flatten());
        assert!(told.is_none() || states.any(|(_, state)| *told == state.told), "view {view} was said to be {told:?}");
    }
    assert!(outcome.damaged <= life.rotten || may_look_damaged, "{} files were set aside", outcome.damaged);
}

/// Tells the story, and what came of it.
fn try_life(engine: Engine, name: &str, story: impl Fn(&mut Life), mut effort: Effort) {
    effort.disks *= times();
    effort.second *= times();
    let began = Instant::now();
    let mut life = Life::begin(engine, Image::empty());
    story(&mut life);
    let mut tally = Tally::default();
    let engine = engine.name;
    cut_everywhere(&format!("{engine}: {name}"), &life, effort, &mut HashMap::new(), &mut tally);
    let Tally { cuts, sampled, disks, opened, second } = tally;
    let (steps, took) = (life.disk.steps(), began.elapsed().as_secs_f32());
    eprintln!(
        "{engine}: {name}: {steps} operations, {cuts} cuts ({sampled} sampled), {disks} disks, {opened} different ones \
         opened, {second} after second cuts, {took:.1} s"
    );
    assert!(opened > 1);
}
