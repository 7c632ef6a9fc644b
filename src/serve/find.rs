//! Which recorded view could answer a request. [`find`] looks, and says what it found in the words of `decide`; nothing
//! is read from the disk but indices.

use crate::decide::{HeldAt, Recorded};
use crate::identity::SHARED_SCOPE;
use crate::request::{ApiRequest, Class, Selection};
use crate::store::{Collection, Kind, ObjectRef, Store, ViewInfo, ViewKey};
use std::time::SystemTime;

/// The representation under which the absence of an object is recorded: a 404 is the same in all of them.
pub(super) const ABSENT: &str = "absent";

/// The representation under which it is recorded that the upstream refuses an object or a document that could be had out of
/// something else in the record: the upstream's newest word on it, whatever else is held, until it says otherwise.
pub(super) const FORBIDDEN: &str = "forbidden";

/// A recorded answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A document.
    Document(ViewKey),
    /// A 404 that the upstream gave, or its refusal.
    Absent(ViewKey),
    /// A collection.
    Collection {
        /// Which.
        key: ViewKey,
        /// What of it the answer is.
        selection: Selection,
    },
    /// One object of a collection.
    Member {
        /// The collection.
        collection: ViewKey,
        /// The object's key in it.
        object: String,
    },
    /// No object of a complete collection that would hold it.
    Missing {
        /// The collection.
        collection: ViewKey,
    },
}

/// What the record holds for a request in a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// The answer, if there is one that the client takes.
    pub found: Option<Found>,
    /// When the upstream last confirmed it.
    pub recorded_at: Option<SystemTime>,
    /// The representations that are recorded for this very question.
    pub representations: Vec<String>,
}

impl Finding {
    /// Nothing at all.
    pub(super) fn nothing() -> Finding {
        Finding { found: None, recorded_at: None, representations: Vec::new() }
    }

    /// The same in the words of `decide`.
    pub(super) fn recorded(&self) -> Recorded {
        match (&self.found, self.representations.is_empty()) {
            (Some(_), _) => Recorded::Yes,
            (None, false) => Recorded::OtherRepresentation,
            (None, true) => Recorded::No,
        }
    }
}

/// Looks for what could answer `request` from the record of `scope`.
///
/// `extra` is the part of the view's query that the request's body makes (see `super::reply_query`); `shared` says
/// whether the caller may read what is shared between authenticated clients.
pub(super) fn find(store: &dyn Store, request: &ApiRequest, scope: &str, extra: Option<&str>, shared: bool) -> Finding {
    let path = request.target.view_path();
    let query = extra.map_or_else(|| request.query.selecting(), str::to_owned);
    let own = |views: Vec<ViewInfo>| views.into_iter().filter(|v| v.key.query == query).collect::<Vec<_>>();
    let mut views = own(store.views(scope, &path));
    if let Some(refusal) = views.iter().find(|v| v.key.representation == FORBIDDEN) {
        let found = Some(Found::Absent(refusal.key.clone()));
        return Finding { found, recorded_at: Some(refusal.recorded_at), representations: Vec::new() };
    }
    if views.is_empty() && shared && request.class == Class::Discovery {
        views = own(store.views(SHARED_SCOPE, &path));
    }
    let mut candidates: Vec<Candidate> = views.iter().filter_map(|v| Candidate::direct(v, request.class)).collect();
    if request.class == Class::Object && request.query.selecting().is_empty() {
        candidates.extend(members(store, request, scope));
    }
    if matches!(request.class, Class::List | Class::Watch) {
        candidates.extend(wider(store, request, scope, true));
    }
    // With nothing to choose between, no index is read for it: it is asked while the link is up, too.
    if request.class == Class::Watch
        && candidates.len() > 1
        && let Some(from) = request.query.resource_version().and_then(|v| v.parse().ok())
    {
        candidates.iter_mut().for_each(|candidate| candidate.goes_on = candidate.goes_on_from(store, from));
    }
    choose(request, candidates)
}

/// What goes when the upstream refuses a read: every view of `scope` that [`find`] would answer it with, but for those that
/// other requests may be permitted to read. Who may list a whole may list a part of it, so a list that is refused takes
/// with it those that it would be cut out of. To get one object is another permission: lists that hold it stay.
pub(super) fn refused(store: &dyn Store, request: &ApiRequest, scope: &str) -> Vec<ViewKey> {
    let (path, query) = (request.target.view_path(), request.query.selecting());
    let mut keys: Vec<ViewKey> =
        store.views(scope, &path).into_iter().map(|v| v.key).filter(|key| key.query == query).collect();
    if matches!(request.class, Class::List | Class::Watch) {
        keys.extend(wider(store, request, scope, false).into_iter().filter_map(|c| match c.found {
            Found::Collection { key, .. } => Some(key),
            _ => None,
        }));
    }
    keys
}

/// Whether something in the record would still answer a request for one object or document that the upstream refuses;
/// `shared` as for [`find`].
pub(super) fn is_held_elsewhere(store: &dyn Store, request: &ApiRequest, scope: &str, shared: bool) -> bool {
    match request.class {
        Class::Object => !members(store, request, scope).is_empty(),
        Class::Discovery => shared && !store.views(SHARED_SCOPE, &request.target.view_path()).is_empty(),
        _ => false,
    }
}

/// At which versions a collection holds what it holds.
pub(super) fn held_at(collection: &dyn Collection) -> HeldAt {
    HeldAt { version: collection.version(), unchanged_since: collection.unchanged_since() }
}

/// One way to answer.
struct Candidate {
    found: Found,
    representation: String,
    version: Option<u64>,
    recorded_at: SystemTime,
    /// Whether a watch would go on in it from where it was, and not have to list again.
    goes_on: bool,
}

impl Candidate {
    fn direct(view: &ViewInfo, class: Class) -> Option<Candidate> {
        let (key, representation) = (view.key.clone(), view.key.representation.clone());
        let found = match (view.kind, class) {
            (Kind::Document, Class::Watch) => return None,
            (Kind::Document, _) if representation == ABSENT => Found::Absent(key),
            (Kind::Document, _) => Found::Document(key),
            (Kind::Collection, Class::List | Class::Watch) => {
                Found::Collection { key, selection: Selection::default() }
            }
            (Kind::Collection, _) => return None,
        };
        Some(Candidate { found, representation, version: view.version, recorded_at: view.recorded_at, goes_on: false })
    }

    fn goes_on_from(&self, store: &dyn Store, version: u64) -> bool {
        let Found::Collection { key, .. } = &self.found else { return false };
        let Ok(Some(held)) = store.collection(key) else { return false };
        held_at(&*held).is_known_at(version)
    }

    /// Whether this is to be served rather than `other`: where a watch goes on; else what says something newer, by the
    /// object's own version where both have one, else by when the upstream last confirmed it. That something is not
    /// there has no version. What would have to be cut out of something wider must be newer for certain.
    fn is_better_than(&self, other: &Candidate) -> bool {
        if self.goes_on != other.goes_on {
            return self.goes_on;
        }
        match (self.version, other.version) {
            (Some(a), Some(b)) if a != b => a > b,
            _ if matches!(&self.found, Found::Collection { selection, .. } if !selection.is_everything()) => false,
            _ => self.recorded_at > other.recorded_at,
        }
    }
}

/// The collections out of which a list could be cut; only complete ones where `whole`.
fn wider(store: &dyn Store, request: &ApiRequest, scope: &str, whole: bool) -> Vec<Candidate> {
    let Some(resource) = request.target.resource() else { return Vec::new() };
    let own = request.target.view_path();
    let mut found = Vec::new();
    for view in resource.covering_paths().iter().flat_map(|p| store.views(scope, p)) {
        if view.kind != Kind::Collection || (whole && !view.complete) {
            continue;
        }
        let namespace = resource.namespace.as_deref().filter(|_| view.key.path != own);
        let selection = Selection::out_of(&view.key.query, &request.query, namespace);
        // The very view that is asked for is a candidate already.
        if let Some(selection) = selection.filter(|s| !s.is_everything()) {
            found.push(Candidate {
                representation: view.key.representation.clone(),
                version: view.version,
                recorded_at: view.recorded_at,
                goes_on: false,
                found: Found::Collection { key: view.key, selection },
            });
        }
    }
    found
}

/// What the collections that cover an object say of it.
fn members(store: &dyn Store, request: &ApiRequest, scope: &str) -> Vec<Candidate> {
    let Some(resource) = request.target.resource() else { return Vec::new() };
    let (Some(object), Some(name)) = (resource.object_key(), resource.name.as_deref()) else { return Vec::new() };
    let by_name = format!("fieldSelector=metadata.name%3D{name}");
    let mut found = Vec::new();
    for view in resource.covering_paths().iter().flat_map(|p| store.views(scope, p)) {
        if view.kind != Kind::Collection {
            continue;
        }
        let Ok(Some(collection)) = store.collection(&view.key) else { continue };
        let must_hold = view.complete && (view.key.query.is_empty() || view.key.query == by_name);
        let (representation, recorded_at) = (view.key.representation.clone(), view.recorded_at);
        found.push(match collection.find(&object) {
            Some(ObjectRef { version, .. }) => Candidate {
                found: Found::Member { collection: view.key, object: object.clone() },
                representation,
                version,
                recorded_at,
                goes_on: false,
            },
            None if must_hold => Candidate {
                found: Found::Missing { collection: view.key },
                representation: ABSENT.to_owned(),
                version: None,
                recorded_at,
                goes_on: false,
            },
            None => continue,
        });
    }
    found
}

/// The best candidate in the first representation that the client takes. An absence is a candidate in each.
fn choose(request: &ApiRequest, candidates: Vec<Candidate>) -> Finding {
    let mut representations: Vec<String> =
        candidates.iter().map(|c| c.representation.clone()).filter(|r| r != ABSENT).collect();
    representations.sort();
    representations.dedup();
    let names: Vec<&str> = representations.iter().map(String::as_str).collect();
    let wanted = request.accept.choose(&names).map(str::to_owned);
    let mut best: Option<Candidate> = None;
    for candidate in candidates {
        let eligible = candidate.representation == ABSENT || Some(&candidate.representation) == wanted.as_ref();
        if eligible && best.as_ref().is_none_or(|b| candidate.is_better_than(b)) {
            best = Some(candidate);
        }
    }
    let recorded_at = best.as_ref().map(|b| b.recorded_at);
    Finding { found: best.map(|b| b.found), recorded_at, representations }
}
