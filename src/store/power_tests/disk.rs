//! A disk in memory that can lose power: it keeps a log of what was done to it, and tells all that a power cut at some
//! point of the log may leave.
//!
//! What [`Disk`] says, taken at its word: contents are there once `sync_data` of their file has returned, names once
//! `sync_dir` of their directory has, everything once `sync_all` has. What was done since may each have happened or not:
//! every name for itself (a rename is one thing), every unit of a file's contents (a sector, 512 bytes, or less) as it was
//! after any of the writes since, or zeros where the file had not reached; its length as after any of them, or, where a write
//! has made it longer, between (a length that is set is one thing, too).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::contract::Dice;
use super::super::{Disk, DiskFile, lock};

type Node = usize;

#[derive(Clone)]
enum Inode {
    Dir(BTreeMap<OsString, Node>),
    File(Arc<Vec<u8>>),
}

/// A tree of files; the first node is `/`.
#[derive(Clone)]
pub(super) struct Image(Vec<Inode>);

/// Something that was done to a name.
#[derive(Clone, Debug)]
enum Name {
    Made(Node, OsString, Node),
    Removed(Node, OsString, Node),
    Renamed((Node, OsString), (Node, OsString), Node),
}

#[derive(Clone, Debug)]
enum Op {
    Name(Name),
    Write(Node, usize, Vec<u8>),
    SetLen(Node, usize),
    SyncData(Node),
    SyncDir(Node),
    SyncAll,
}

impl Name {
    fn is_in(&self, dir: Node) -> bool {
        match self {
            Name::Made(at, ..) | Name::Removed(at, ..) => *at == dir,
            Name::Renamed((from, _), (to, _), _) => *from == dir || *to == dir,
        }
    }
}

impl Image {
    pub(super) fn empty() -> Self {
        Self(vec![Inode::Dir(BTreeMap::new())])
    }

    fn dir(&mut self, node: Node) -> &mut BTreeMap<OsString, Node> {
        match &mut self.0[node] {
            Inode::Dir(names) => names,
            Inode::File(_) => panic!("a file is no directory"),
        }
    }

    fn file(&self, node: Node) -> &Arc<Vec<u8>> {
        match &self.0[node] {
            Inode::File(content) => content,
            Inode::Dir(_) => panic!("a directory is no file"),
        }
    }

    fn content(&mut self, node: Node) -> &mut Vec<u8> {
        match &mut self.0[node] {
            Inode::File(content) => Arc::make_mut(content),
            Inode::Dir(_) => panic!("a directory is no file"),
        }
    }

    fn find(&self, path: &Path) -> io::Result<Node> {
        let mut node = 0;
        for part in path.iter().skip(1) {
            let Inode::Dir(names) = &self.0[node] else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            node = *names.get(part).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    fn apply(&mut self, name: &Name) {
        let mut remove = |dir: Node, name: &OsString, node: Node| {
            let names = self.dir(dir);
            if names.get(name) == Some(&node) {
                names.remove(name);
            }
        };
        match name {
            Name::Made(dir, name, node) => drop(self.dir(*dir).insert(name.clone(), *node)),
            Name::Removed(dir, name, node) => remove(*dir, name, *node),
            Name::Renamed(from, to, node) => {
                remove(from.0, &from.1, *node);
                self.dir(to.0).insert(to.1.clone(), *node);
            }
        }
    }

    /// The files that can be reached, by their paths.
    pub(super) fn files(&self) -> Vec<(String, Arc<Vec<u8>>)> {
        let (mut found, mut dirs) = (Vec::new(), vec![(String::new(), 0)]);
        while let Some((path, node)) = dirs.pop() {
            match &self.0[node] {
                Inode::File(content) => found.push((path, Arc::clone(content))),
                Inode::Dir(names) => {
                    dirs.extend(names.iter().map(|(name, &node)| (format!("{path}/{}", name.display()), node)));
                }
            }
        }
        found.sort();
        found
    }

    /// Puts other bytes into a file that is there.
    pub(super) fn alter(&mut self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let node = self.find(Path::new(path)).unwrap();
        change(self.content(node));
    }

    /// What can be seen of it; two of the same look the same to whoever opens them.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut dirs = vec![0];
        while let Some(node) = dirs.pop() {
            match &self.0[node] {
                Inode::File(content) => content.hash(&mut hasher),
                Inode::Dir(names) => {
                    names.keys().for_each(|name| name.hash(&mut hasher));
                    dirs.extend(names.values());
                }
            }
            hasher.write_u8(0xa5);
        }
        hasher.finish()
    }
}

/// What a power cut may leave: what is durable, and choices.
pub(super) struct Cut {
    durable: Image,
    /// In their order, and whether each is durable.
    names: Vec<(Name, bool)>,
    files: Vec<Torn>,
}

/// The choices of one file.
struct Torn {
    node: Node,
    /// The durable one first, the last one last.
    lengths: Vec<usize>,
    /// Where each unit is, and what it may be; likewise.
    units: Vec<(usize, Vec<Vec<u8>>)>,
}

/// No more lengths of a file than this are tried at one cut, beside those that its writes gave it.
const LENGTHS: usize = 6;

impl Cut {
    /// How many values each choice has.
    fn choices(&self) -> Vec<usize> {
        let names = self.names.iter().filter(|(_, durable)| !durable).map(|_| 2);
        let contents = self
            .files
            .iter()
            .flat_map(|file| [file.lengths.len()].into_iter().chain(file.units.iter().map(|(_, values)| values.len())));
        names.chain(contents).filter(|&values| values > 1).collect()
    }

    /// How many disks it may leave; many of them may look the same.
    pub(super) fn count(&self) -> u64 {
        self.choices().iter().fold(1, |product: u64, &values| product.saturating_mul(values as u64))
    }

    /// The disk with what was durable only.
    pub(super) fn least(&self) -> Image {
        self.build(&vec![0; self.choices().len()])
    }

    fn build(&self, picks: &[usize]) -> Image {
        let mut image = self.durable.clone();
        let mut picks = picks.iter().copied();
        let mut pick = |values: usize| if values > 1 { picks.next().unwrap() } else { 0 };
        for (name, durable) in &self.names {
            if *durable || pick(2) == 1 {
                image.apply(name);
            }
        }
        for file in &self.files {
            let length = file.lengths[pick(file.lengths.len())];
            let content = image.content(file.node);
            for (offset, values) in &file.units {
                let value = &values[pick(values.len())];
                if content.len() < offset + value.len() {
                    content.resize(offset + value.len(), 0);
                }
                content[*offset..offset + value.len()].copy_from_slice(value);
            }
            content.resize(length, 0);
        }
        image
    }

    /// Calls `visit` with every disk that may be left if there are no more than `limit`; else with those that miss or have
    /// all but one thing, and with as many that chance has put together as make up `limit`.
    pub(super) fn each(&self, limit: u64, dice: &mut Dice, mut visit: impl FnMut(Image)) {
        let choices = self.choices();
        let last: Vec<usize> = choices.iter().map(|values| values - 1).collect();
        let mut picks = vec![0; choices.len()];
        if self.count() <= limit {
            loop {
                visit(self.build(&picks));
                let Some(next) = (0..picks.len()).find(|&i| picks[i] < last[i]) else {
                    return;
                };
                picks[..next].fill(0);
                picks[next] += 1;
            }
        }
        let mut tried = 2;
        visit(self.build(&picks));
        visit(self.build(&last));
        for i in (0..choices.len()).take_while(|i| 2 * *i as u64 + 4 < limit) {
            for mut picks in [picks.clone(), last.clone()] {
                picks[i] = last[i] - picks[i];
                visit(self.build(&picks));
                tried += 1;
            }
        }
        while tried < limit {
            // Most things happened, about half, or few.
            let odds = 1 + 3 * dice.roll(3);
            for (pick, &values) in picks.iter_mut().zip(&choices) {
                *pick = match dice.roll(8) < odds {
                    true => values - 1,
                    false if dice.roll(2) == 0 => 0,
                    false => dice.roll(values as u64) as usize,
                };
            }
            visit(self.build(&picks));
            tried += 1;
        }
    }
}

/// The disk's state and its story.
struct Machine {
    base: Image,
    now: Image,
    log: Vec<Op>,
    life: u64,
    /// How long the log may become.
    most: usize,
}

/// A disk as a process sees it that may be killed.
#[derive(Clone)]
pub(super) struct PowerDisk {
    machine: Arc<Mutex<Machine>>,
    life: u64,
}

impl PowerDisk {
    /// A disk on which all that is there is durable.
    pub(super) fn new(image: Image) -> Self {
        let machine = Machine { base: image.clone(), now: image, log: Vec::new(), life: 0, most: usize::MAX };
        Self { machine: Arc::new(Mutex::new(machine)), life: 0 }
    }

    /// The disk as the next process sees it; the one before can do nothing more.
    pub(super) fn next_life(&self) -> Self {
        let mut machine = lock(&self.machine);
        machine.life += 1;
        machine.most = usize::MAX;
        Self { machine: Arc::clone(&self.machine), life: machine.life }
    }

    /// The process is killed after so many more operations.
    pub(super) fn dies_after(&self, operations: usize) {
        let mut machine = lock(&self.machine);
        machine.most = machine.log.len() + operations;
    }

    /// The disk as it is while the power is on.
    pub(super) fn image(&self) -> Image {
        lock(&self.machine).now.clone()
    }

    /// Changes a file behind everybody's back, lastingly.
    pub(super) fn alter(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut machine = lock(&self.machine);
        machine.now.alter(path, change);
        machine.base = machine.now.clone();
        machine.log.clear();
    }

    /// How many operations have been logged.
    pub(super) fn steps(&self) -> usize {
        lock(&self.machine).log.len()
    }

    /// The operations, for who wants to know what went wrong.
    pub(super) fn story(&self, steps: usize) -> String {
        let of = |op: &Op| match op {
            Op::Write(node, offset, bytes) => format!("Write({node}, {offset}, {} bytes)", bytes.len()),
            op => format!("{op:?}"),
        };
        lock(&self.machine).log[..steps].iter().enumerate().map(|(i, op)| format!("{i:4} {}\n", of(op))).collect()
    }

    /// What is left if the power goes after so many operations, with units of contents of this many bytes.
    pub(super) fn cut(&self, steps: usize, unit: usize) -> Cut {
        let machine = lock(&self.machine);
        let log = &machine.log[..steps];
        let mut durable = machine.base.clone();
        // A file's last sync, and a name's: what came before is durable.
        let mut names: Vec<(Name, bool)> = Vec::new();
        let mut pending: BTreeMap<Node, Vec<&Op>> = BTreeMap::new();
        for op in log {
            match op {
                Op::Name(name) => {
                    if let Name::Made(_, _, node) = name
                        && *node == durable.0.len()
                    {
                        durable.0.push(match &machine.now.0[*node] {
                            Inode::Dir(_) => Inode::Dir(BTreeMap::new()),
                            Inode::File(_) => Inode::File(Arc::default()),
                        });
                    }
                    names.push((name.clone(), false));
                }
                Op::Write(node, ..) | Op::SetLen(node, _) => pending.entry(*node).or_default().push(op),
                Op::SyncData(node) => {
                    let done = pending.remove(node).unwrap_or_default();
                    done.into_iter().for_each(|op| durable.write(op));
                }
                Op::SyncDir(dir) => {
                    names.iter_mut().filter(|(name, _)| name.is_in(*dir)).for_each(|(_, durable)| *durable = true);
                }
                Op::SyncAll => {
                    names.iter_mut().for_each(|(_, durable)| *durable = true);
                    std::mem::take(&mut pending).into_values().flatten().for_each(|op| durable.write(op));
                }
            }
        }
        let files = pending.into_iter().map(|(node, ops)| durable.torn(node, &ops, unit)).collect();
        Cut { durable, names, files }
    }
}

impl Image {
    fn write(&mut self, op: &Op) {
        match op {
            Op::Write(node, offset, bytes) => {
                let content = self.content(*node);
                content.resize(content.len().max(offset + bytes.len()), 0);
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Op::SetLen(node, len) => self.content(*node).resize(*len, 0),
            _ => {}
        }
    }

    /// What may have become of a file by these writes.
    fn torn(&self, node: Node, ops: &[&Op], unit: usize) -> Torn {
        let mut now = Image(vec![Inode::File(Arc::clone(self.file(node)))]);
        let mut lengths = vec![now.file(0).len()];
        let mut borders = Vec::new();
        let mut units: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let value_at = |content: &[u8], which: usize| {
            let end = content.len().min((which + 1) * unit);
            let mut value = content.get(which * unit..end).unwrap_or_default().to_vec();
            value.resize(unit, 0);
            value
        };
        for op in ops {
            let length = now.file(0).len();
            let (touched, op) = match op {
                Op::Write(_, offset, bytes) => (*offset..offset + bytes.len(), Op::Write(0, *offset, bytes.clone())),
                Op::SetLen(_, len) => ((*len).min(length)..length, Op::SetLen(0, *len)),
                _ => continue,
            };
            for which in touched.start / unit..touched.end.div_ceil(unit) {
                units.entry(which).or_insert_with(|| vec![value_at(now.file(0), which)]);
            }
            now.write(&op);
            for which in touched.start / unit..touched.end.div_ceil(unit) {
                units.entry(which).or_default().push(value_at(now.file(0), which));
            }
            lengths.push(now.file(0).len());
            if let Op::Write(..) = op {
                borders.extend((length / unit + 1..now.file(0).len().div_ceil(unit)).map(|which| which * unit));
            }
        }
        let newest = lengths.len() - 1;
        lengths.splice(newest..newest, borders.iter().copied().step_by(borders.len().div_ceil(LENGTHS).max(1)));
        let units = units.into_iter().map(|(which, values)| (which * unit, distinct(values))).collect();
        Torn { node, lengths: distinct(lengths), units }
    }
}

/// The first of these values, each other one once, and the last.
fn distinct<T: PartialEq>(mut values: Vec<T>) -> Vec<T> {
    let (Some(last), false) = (values.pop(), values.is_empty()) else {
        return values;
    };
    let mut found: Vec<T> = Vec::new();
    for value in values {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    if found.len() > 1 {
        let mut first = true;
        found.retain(|value| std::mem::take(&mut first) || *value != last);
    }
    if found.len() > 1 || found[0] != last {
        found.push(last);
    }
    found
}

struct PowerFile {
    machine: Arc<Mutex<Machine>>,
    life: u64,
    node: Node,
}

/// What a process asks for that has been killed does not happen.
fn alive(machine: &Mutex<Machine>, life: u64) -> io::Result<std::sync::MutexGuard<'_, Machine>> {
    let machine = lock(machine);
    if machine.life == life && machine.log.len() < machine.most { Ok(machine) } else { Err(io::Error::other("killed")) }
}

impl Machine {
    fn name(&mut self, name: Name) {
        self.now.apply(&name);
        self.log.push(Op::Name(name));
    }

    /// The directory of a path, and the last part of the path.
    fn above(&self, path: &Path) -> io::Result<(Node, OsString)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::AlreadyExists.into());
        };
        Ok((self.now.find(dir)?, name.to_owned()))
    }

    fn make(&mut self, path: &Path, inode: Inode) -> io::Result<Node> {
        let (dir, name) = self.above(path)?;
        if self.now.dir(dir).contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = self.now.0.len();
        self.now.0.push(inode);
        self.name(Name::Made(dir, name, node));
        Ok(node)
    }

    fn remove(&mut self, path: &Path, is_dir: bool) -> io::Result<()> {
        let (node, (dir, name)) = (self.now.find(path)?, self.above(path)?);
        match &self.now.0[node] {
            Inode::Dir(names) if !names.is_empty() => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            Inode::Dir(_) if !is_dir => return Err(io::ErrorKind::IsADirectory.into()),
            Inode::File(_) if is_dir => return Err(io::ErrorKind::NotADirectory.into()),
            _ => {}
        }
        self.name(Name::Removed(dir, name, node));
        Ok(())
    }
}

impl PowerDisk {
    fn machine(&self) -> io::Result<std::sync::MutexGuard<'_, Machine>> {
        alive(&self.machine, self.life)
    }

    fn handle(&self, node: Node) -> Arc<dyn DiskFile> {
        Arc::new(PowerFile { machine: Arc::clone(&self.machine), life: self.life, node })
    }
}

impl Disk for PowerDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.machine()?.make(path, Inode::Dir(BTreeMap::new())).map(drop)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let machine = self.machine()?;
        match &machine.now.0[machine.now.find(dir)?] {
            Inode::Dir(names) => Ok(names.keys().cloned().collect()),
            Inode::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.machine()?.make(path, Inode::File(Arc::default()))?;
        Ok(self.handle(node))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let machine = self.machine()?;
        let node = machine.now.find(path)?;
        match machine.now.0[node] {
            Inode::File(_) => Ok(self.handle(node)),
            Inode::Dir(_) => Err(rustix::io::Errno::ISDIR.into()),
        }
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.machine()?;
        let (node, from, to) = (machine.now.find(from)?, machine.above(from)?, machine.above(to)?);
        machine.name(Name::Renamed(from, to, node));
        Ok(())
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.machine()?.remove(path, false)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.machine()?.remove(path, true)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine()?;
        let node = machine.now.find(path)?;
        machine.log.push(Op::SyncDir(node));
        Ok(())
    }
    fn sync_all(&self, _: &Path) -> io::Result<()> {
        self.machine()?.log.push(Op::SyncAll);
        Ok(())
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        match self.create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Box::new(())),
        }
    }
}

impl DiskFile for PowerFile {
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let machine = alive(&self.machine, self.life)?;
        let rest = machine.now.file(self.node).get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        alive(&self.machine, self.life)?.change(Op::Write(self.node, offset as usize, bytes.to_vec()));
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(alive(&self.machine, self.life)?.now.file(self.node).len() as u64)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        alive(&self.machine, self.life)?.change(Op::SetLen(self.node, len as usize));
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        alive(&self.machine, self.life)?.log.push(Op::SyncData(self.node));
        Ok(())
    }
}

impl Machine {
    fn change(&mut self, op: Op) {
        self.now.write(&op);
        self.log.push(op);
    }
}
