//! The engine that lasts as long as the process: for tests, and for nodes that would rather lose the record than wear
//! their flash. The rules are those of every engine ([`super::drafts`]); an entry's place is the bytes themselves.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::drafts::{CommitPlan, Drafts, Source, plan_fold};
use super::index::{Entry, Index};
use super::snapshot::{Contents, Snapshot};
use super::{
    Change, Collection, Committed, Document, DocumentHead, DocumentWriter, Folded, Generation, Kind, ObjectRef, Stats,
    Store, StoreError, ViewInfo, ViewKey, lock,
};

type Bytes = Arc<[u8]>;

/// A store in memory.
#[derive(Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    stands_in: bool,
}

#[derive(Default)]
struct Shared {
    views: Mutex<HashMap<ViewKey, Arc<View>>>,
    notes: Mutex<HashMap<String, Vec<u8>>>,
}

struct View {
    key: ViewKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    content: Content,
    confirmed: Option<SystemTime>,
    drafts: Drafts<Bytes>,
    next_draft: u64,
    /// Counts removals, so that a document that began before one is abandoned.
    removals: u64,
}

#[derive(Default)]
enum Content {
    #[default]
    Nothing,
    Document(Arc<Body>),
    Collection(Arc<Index<Bytes>>),
}

struct Body {
    head: DocumentHead,
    bytes: Bytes,
}

impl State {
    fn held(&self) -> Option<&Index<Bytes>> {
        match &self.content {
            Content::Collection(index) => Some(index),
            _ => None,
        }
    }

    fn info(&self, key: &ViewKey) -> Option<ViewInfo> {
        let mut info = ViewInfo {
            key: key.clone(),
            kind: Kind::Document,
            recorded_at: self.confirmed?,
            status: 0,
            version: None,
            objects: 1,
            complete: true,
            bytes: 0,
        };
        match &self.content {
            Content::Nothing => return None,
            Content::Document(body) => {
                info.status = body.head.status;
                info.version = body.head.version;
                info.bytes = (body.bytes.len() + body.head.head.len()) as u64;
            }
            Content::Collection(index) => {
                info.kind = Kind::Collection;
                info.version = index.version;
                info.objects = index.len();
                info.complete = index.complete;
                info.bytes = index.weight();
            }
        }
        Some(info)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store in the place of one that cannot be opened: it says that it is failing, for what it holds does not
    /// last.
    pub fn standing_in() -> Self {
        Self { stands_in: true, ..Self::default() }
    }

    fn find(&self, key: &ViewKey) -> Option<Arc<View>> {
        lock(&self.shared.views).get(key).cloned()
    }

    fn make(&self, key: &ViewKey) -> Arc<View> {
        let make = || Arc::new(View { key: key.clone(), state: Mutex::default() });
        Arc::clone(lock(&self.shared.views).entry(key.clone()).or_insert_with(make))
    }

    fn matching(&self, wanted: impl Fn(&ViewKey) -> bool) -> Vec<Arc<View>> {
        let views = lock(&self.shared.views);
        let mut found: Vec<_> = views.values().filter(|view| wanted(&view.key)).cloned().collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found
    }

    fn infos(&self, wanted: impl Fn(&ViewKey) -> bool) -> Vec<ViewInfo> {
        self.matching(wanted).iter().filter_map(|view| lock(&view.state).info(&view.key)).collect()
    }
}

impl View {
    fn forget(&self) {
        let mut state = lock(&self.state);
        state.content = Content::Nothing;
        state.drafts.clear();
        state.removals += 1;
    }
}

impl Store for MemoryStore {
    fn views(&self, scope: &str, path: &str) -> Vec<ViewInfo> {
        self.infos(|key| key.scope == scope && key.path == path)
    }

    fn all(&self) -> Vec<ViewInfo> {
        self.infos(|_| true)
    }

    fn document(&self, key: &ViewKey) -> Result<Option<Document>, StoreError> {
        let Some(view) = self.find(key) else {
            return Ok(None);
        };
        let state = lock(&view.state);
        let (Content::Document(body), Some(info)) = (&state.content, state.info(key)) else {
            return Ok(None);
        };
        Ok(Some(Document {
            info,
            uid: body.head.uid.clone(),
            version: body.head.version,
            head: body.head.head.clone(),
            body: Box::new(BodyReader { bytes: Arc::clone(&body.bytes), at: 0 }),
            length: body.bytes.len() as u64,
        }))
    }

    fn begin_document(&self, key: &ViewKey, head: DocumentHead) -> Result<Box<dyn DocumentWriter>, StoreError> {
        let view = self.make(key);
        let removals = lock(&view.state).removals;
        Ok(Box::new(MemoryDocument { view, head, removals, bytes: Vec::new() }))
    }

    fn confirm_document(&self, key: &ViewKey, uid: &str, version: Option<u64>) -> bool {
        let Some(view) = self.find(key) else {
            return false;
        };
        let mut state = lock(&view.state);
        let same = matches!(&state.content, Content::Document(body)
            if version.is_some() && !uid.is_empty() && body.head.version == version && body.head.uid == uid);
        if same {
            state.confirmed = Some(SystemTime::now());
        }
        same
    }

    fn collection(&self, key: &ViewKey) -> Result<Option<Arc<dyn Collection>>, StoreError> {
        let Some(view) = self.find(key) else {
            return Ok(None);
        };
        let state = lock(&view.state);
        let (Content::Collection(index), Some(info)) = (&state.content, state.info(key)) else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Snapshot { info, index: Arc::clone(index), contents: InPlace })))
    }

    fn begin_generation(&self, key: &ViewKey) -> Result<Box<dyn Generation>, StoreError> {
        let view = self.make(key);
        let mut state = lock(&view.state);
        state.next_draft += 1;
        let draft = state.next_draft;
        let State { drafts, content, .. } = &mut *state;
        drafts.begin(draft, content.index());
        drop(state);
        Ok(Box::new(MemoryGeneration { view, draft }))
    }

    fn fold(&self, key: &ViewKey, changes: &[Change<'_>]) -> Result<Folded, StoreError> {
        let view = self.find(key).ok_or(StoreError::NotRecorded)?;
        let mut state = lock(&view.state);
        match state.held() {
            Some(_) => Ok(fold_into_collection(&mut state, changes)),
            None if state.drafts.is_empty() => Err(StoreError::NotRecorded),
            None => Ok(fold_into_drafts(&mut state, changes)),
        }
    }

    fn remove(&self, key: &ViewKey) -> Result<(), StoreError> {
        if let Some(view) = lock(&self.shared.views).remove(key) {
            view.forget();
        }
        Ok(())
    }

    fn remove_scope_path(&self, scope: &str, path: &str) -> Result<(), StoreError> {
        let found = self.matching(|key| key.scope == scope && key.path == path);
        found.iter().try_for_each(|view| self.remove(&view.key))
    }

    fn note(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.shared.notes).get(name).cloned()
    }

    fn set_note(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        lock(&self.shared.notes).insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        let views = self.all();
        Stats {
            views: views.len(),
            objects: views.iter().map(|view| view.objects).sum(),
            bytes: views.iter().map(|view| view.bytes).sum(),
            failing: self.stands_in,
            ..Stats::default()
        }
    }
}

impl Content {
    fn index(&self) -> Option<&Index<Bytes>> {
        match self {
            Content::Collection(index) => Some(index),
            _ => None,
        }
    }
}

fn fold_into_collection(state: &mut State, changes: &[Change<'_>]) -> Folded {
    let State { content: Content::Collection(index), drafts, confirmed, .. } = state else {
        return Folded { applied: 0, version: None };
    };
    let plan = plan_fold(index, changes);
    if plan.applied > 0 {
        let index = Arc::make_mut(index);
        for &step in &plan.steps {
            match &changes[step] {
                Change::Put { object, bytes } => index.put(entry(object, bytes)),
                Change::Delete { key, .. } => index.delete(key),
                Change::Envelope { bytes } => index.envelope = Arc::from(*bytes),
                Change::Advance { .. } | Change::Incomplete | Change::Complete => {}
            }
        }
        index.settle(plan.version, plan.complete, plan.moves_objects(changes));
    }
    drafts.remember(changes, &plan.steps, index);
    *confirmed = Some(SystemTime::now());
    Folded { applied: plan.applied, version: plan.version }
}

fn fold_into_drafts(state: &mut State, changes: &[Change<'_>]) -> Folded {
    let mut applied = 0;
    for change in changes {
        let mut counts = matches!(change, Change::Delete { .. });
        if let Change::Put { object, bytes } = change {
            for draft in state.drafts.ids() {
                if state.drafts.wants_early(draft, object) {
                    state.drafts.enter(draft, entry(object, bytes), Source::Folded);
                    counts = true;
                }
            }
        }
        applied += usize::from(counts);
        state.drafts.remember_one(change, counts);
    }
    Folded { applied, version: None }
}

fn entry(object: &ObjectRef, bytes: &[u8]) -> Arc<Entry<Bytes>> {
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    Arc::new(Entry::new(object, size, bytes.into()))
}

struct BodyReader {
    bytes: Bytes,
    at: usize,
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n;
        Ok(n)
    }
}

struct MemoryDocument {
    view: Arc<View>,
    head: DocumentHead,
    removals: u64,
    bytes: Vec<u8>,
}

impl DocumentWriter for MemoryDocument {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let mut state = lock(&self.view.state);
        if state.removals != self.removals {
            return Err(StoreError::Abandoned);
        }
        let older = matches!(&state.content, Content::Document(held) if self.head.is_older_than(&held.head));
        if !older {
            state.content = Content::Document(Arc::new(Body { head: self.head, bytes: self.bytes.into() }));
            state.confirmed = Some(SystemTime::now());
        }
        Ok(())
    }
}

struct MemoryGeneration {
    view: Arc<View>,
    draft: u64,
}

impl Generation for MemoryGeneration {
    fn put(&mut self, object: &ObjectRef, bytes: &[u8]) -> Result<(), StoreError> {
        let mut state = lock(&self.view.state);
        let State { drafts, content, .. } = &mut *state;
        if !drafts.has(self.draft) {
            return Err(StoreError::Abandoned);
        }
        if drafts.wants(self.draft, object, content.index()) {
            drafts.enter(self.draft, entry(object, bytes), Source::Listed);
        }
        Ok(())
    }

    fn supersede(&mut self) {
        lock(&self.view.state).drafts.supersede(self.draft);
    }

    fn commit(self: Box<Self>, envelope: &[u8], version: Option<u64>, complete: bool) -> Result<Committed, StoreError> {
        let mut state = lock(&self.view.state);
        let State { drafts, content, confirmed, .. } = &mut *state;
        let plan = drafts.plan_commit(self.draft, content.index(), envelope, version, complete);
        let outcome = match plan.ok_or(StoreError::Abandoned)? {
            CommitPlan::Older => return Ok(Committed::Older),
            CommitPlan::Unchanged => Committed::Unchanged,
            CommitPlan::Replace(replace) => {
                if !matches!(content, Content::Collection(_)) {
                    *content = Content::Collection(Arc::default());
                }
                if let Content::Collection(index) = content {
                    let again = replace.again.clone();
                    replace.apply(Arc::make_mut(index), envelope, again);
                }
                Committed::Replaced
            }
        };
        drafts.committed(self.draft, version, complete);
        *confirmed = Some(SystemTime::now());
        Ok(outcome)
    }
}

impl Drop for MemoryGeneration {
    fn drop(&mut self) {
        lock(&self.view.state).drafts.end(self.draft);
    }
}

/// An entry's place is the bytes themselves.
struct InPlace;

impl Contents<Bytes> for InPlace {
    type Buffer = ();

    fn read<'a>(&'a self, entry: &'a Entry<Bytes>, (): &'a mut ()) -> io::Result<&'a [u8]> {
        Ok(&entry.at)
    }
}
