//! `--heal-endpoints`: while the link is down, kubelets' status patches, which are refused, tell where this node's pods live
//! now; EndpointSlices out of the record are corrected by that on their way to a client. Nothing of it is kept: it is
//! forgotten when the link is back, and a kubelet that has not been heard says it again within ten seconds
//! (`pkg/kubelet/status/status_manager.go`, `syncPeriod`).
//!
//! **Who is believed:** a client whose certificate is that of a node (`system:node:NAME`), and that impersonates nobody; of
//! a pod that the cluster itself has shown to this very client, with the same uid, on that node. Such a client may say the
//! same to the cluster, which would believe it: nobody can lead a Service elsewhere in the dark who could not with the link up.

use super::find::{self, Found};
use super::rewrite::Outflow;
use super::{Asked, Service, fields, recall::Part};
use crate::front::Exchange;
use crate::identity::Identity;
use crate::record::{Encoding, Envelope, EventKind, Learned, Pod, StatusPatch, Whereabouts};
use crate::request::{ApiRequest, Class, Resource};
use crate::store::ObjectRef;
use crate::upstream::{Epoch, Link, LinkState};
use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The longest patch that is read; kube-apiserver takes 3 MiB, a kubelet's has a few kilobytes.
const LONGEST_PATCH: u64 = 256 << 10;

/// What kubelets have told in this outage.
pub(super) struct Reports {
    book: Mutex<Book>,
}

struct Book {
    /// Ends when the link is back, and with it what is known.
    until: Option<Arc<Epoch>>,
    known: Arc<Whereabouts>,
    /// Ends when something is learned.
    news: Option<Arc<Epoch>>,
    /// Whether clients may hold corrections that are not known any more: of an outage before, or of a process before.
    told_before: bool,
}

impl Book {
    fn forget_what_is_over(&mut self) {
        if self.until.as_ref().is_some_and(|until| until.has_ended()) {
            self.until = None;
            self.known = Arc::new(self.known.forgotten());
        }
    }

    /// What is known; `None`: nothing.
    fn known(&self) -> Option<Arc<Whereabouts>> {
        (!self.known.is_empty()).then(|| Arc::clone(&self.known))
    }
}

impl Reports {
    /// Nothing is known. `dark`: the process has begun while the link was down, perhaps after another that had told things.
    pub(super) fn new(dark: bool) -> Reports {
        // Another number than a process before began with: what it told has other versions.
        let begins = RandomState::new().build_hasher().finish() & 0xff;
        let known = Arc::new(Whereabouts::beginning_at(begins));
        Reports { book: Mutex::new(Book { known, told_before: dark, until: None, news: None }) }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.forget_what_is_over();
        book
    }

    /// What is known now; `None`: nothing.
    pub(super) fn known(&self) -> Option<Arc<Whereabouts>> {
        self.lock().known()
    }

    /// The same, and what ends when it is no more all that is known.
    fn known_until(&self) -> (Option<Arc<Whereabouts>>, Option<Arc<Epoch>>) {
        let mut book = self.lock();
        if book.news.is_none() {
            book.news = Epoch::new().ok().map(Arc::new);
        }
        (book.known(), book.news.clone())
    }

    /// Learns of a pod what lasts until the link is back.
    fn learn(&self, link: &Link, recorded: &Pod, patch: &StatusPatch) -> Learned {
        let Some(now) = patch.apply(&recorded.status) else { return Learned::Nothing };
        // Taken before the state is asked for: what is learned ends with this very outage, or is not learned.
        let up = link.up_epoch();
        if !matches!(link.state(), LinkState::Down { .. }) {
            return Learned::Nothing;
        }
        let mut book = self.lock();
        let learned = book.known.learn(recorded, now);
        if let Learned::News(known) = &learned {
            book.known = Arc::new(known.clone());
            book.until.get_or_insert(up);
            book.told_before = true;
            if let Some(news) = book.news.take() {
                news.end();
            }
        }
        learned
    }
}

impl Service {
    /// Stage: a write is about to be refused because the link is down. If it is a kubelet's, it is listened to.
    pub(super) fn listen(&self, exchange: &mut Exchange<'_>, asked: &Asked) {
        let Some(node) = self.options.heal_endpoints.then(|| teller(asked)).flatten() else { return };
        let media_type = fields::joined(&exchange.head.headers, "content-type").unwrap_or_default();
        if !media_type.starts_with(StatusPatch::MEDIA_TYPE) {
            return;
        }
        let mut body = Vec::new();
        let read = exchange.body().take(LONGEST_PATCH + 1).read_to_end(&mut body);
        if read.is_err() || body.len() as u64 > LONGEST_PATCH {
            return;
        }
        let Some(patch) = StatusPatch::read(&body) else { return };
        let accept = fields::joined(&exchange.head.headers, "accept");
        let Some(recorded) = self.recorded_pod(asked, accept.as_deref()) else { return };
        if recorded.uid != patch.uid || recorded.node != node {
            return;
        }
        let Pod { namespace, name, .. } = &recorded;
        match self.reports.learn(self.upstream.link(), &recorded, &patch) {
            Learned::News(_) => log::info!("{namespace}/{name}: its kubelet says where it is while the link is down"),
            Learned::TooMany => self.warn_once(
                "whereabouts",
                "too many pods are elsewhere than recorded; the endpoints of some are served as they are recorded",
            ),
            Learned::Nothing => {}
        }
    }

    /// The pod whose status is patched as its kubelet has just read it: the patch says only what is different.
    fn recorded_pod(&self, asked: &Asked, accept: Option<&str>) -> Option<Pod> {
        let scope = asked.scope.as_deref().filter(|_| !self.cluster.is_foreign())?;
        let path = asked.request.target.view_path();
        let header = |name: &str| accept.filter(|_| name == "accept").map(str::to_owned);
        let request = ApiRequest::new("GET", path.strip_suffix("/status")?, &header).ok()?;
        match find::find(&*self.store, &request, scope, None, false).found? {
            Found::Document(key) => {
                let mut document = self.store.document(&key).ok()??;
                let mut body = Vec::new();
                document.body.read_to_end(&mut body).ok()?;
                Pod::read_body(Encoding::of(&key.representation)?, &body).ok()
            }
            Found::Member { collection, object } => {
                let encoding = Encoding::of(&collection.representation)?;
                let (_, bytes) = self.store.collection(&collection).ok()??.get(&object)?;
                Pod::read(encoding, &bytes).ok()
            }
            _ => None,
        }
    }

    /// By what the answer to this request is to be corrected; `None`: it is as it is recorded.
    pub(super) fn corrected_by(&self, asked: &Asked) -> Option<Arc<Whereabouts>> {
        let applies = self.options.heal_endpoints && is_of_slices(&asked.request);
        applies.then(|| self.reports.known()).flatten()
    }

    /// What a watch that is held from the record is to be told beside it; `None`: nothing.
    pub(super) fn corrections(&self, asked: &Asked) -> Option<Corrections<'_>> {
        let applies = self.options.heal_endpoints && is_of_slices(&asked.request);
        applies.then(|| {
            let (known, news) = self.reports.known_until();
            Corrections { reports: &self.reports, known, news, told: HashMap::new(), doubtful: false }
        })
    }
}

/// The node whose kubelet patches the status of a pod, where it does.
fn teller(asked: &Asked) -> Option<&str> {
    let Resource { group, resource, name: Some(_), subresource: Some(subresource), .. } =
        asked.request.target.resource()?
    else {
        return None;
    };
    let Identity::Certificate { common_name } = &asked.caller.identity else { return None };
    let patches = asked.request.class == Class::Write && asked.request.method == "PATCH";
    let of_pod = group.is_empty() && resource == "pods" && subresource == "status";
    let node = common_name.strip_prefix("system:node:").filter(|node| !node.is_empty());
    node.filter(|_| patches && of_pod && asked.caller.impersonated.is_empty())
}

fn is_of_slices(request: &ApiRequest) -> bool {
    request
        .target
        .resource()
        .is_some_and(|r| r.group == "discovery.k8s.io" && r.resource == "endpointslices" && r.subresource.is_none())
}

/// What a held watch of EndpointSlices has been told that is not so recorded, and what it is to be told.
pub(super) struct Corrections<'a> {
    reports: &'a Reports,
    known: Option<Arc<Whereabouts>>,
    news: Option<Arc<Epoch>>,
    /// Each slice that the client has corrected, by its key: what that said, hashed.
    told: HashMap<String, u64>,
    /// Whether the client may hold corrections of which nothing is known here.
    doubtful: bool,
}

impl Corrections<'_> {
    /// The client goes on from what it holds, which somebody may have corrected before.
    pub(super) fn doubt_what_the_client_holds(&mut self) {
        self.doubtful = self.reports.lock().told_before;
    }

    /// By what the objects that the watch begins with are to be corrected.
    pub(super) fn known(&self) -> Option<Arc<Whereabouts>> {
        self.known.clone()
    }

    /// Ends when there is more to be told.
    pub(super) fn news(&self) -> Option<&Epoch> {
        self.news.as_deref()
    }

    /// Whether there is more to be told.
    pub(super) fn has_news(&self) -> bool {
        // Where there was no file descriptor for it, there may be news at each look.
        self.news.as_ref().is_none_or(|news| news.has_ended())
    }

    /// Whether the client holds, or may hold, what the record does not.
    pub(super) fn may_be_held(&self) -> bool {
        !self.told.is_empty() || self.doubtful
    }

    /// The client has been sent everything, corrected.
    pub(super) fn all_told(&mut self, part: &Part<'_>) -> io::Result<()> {
        self.each_change(part, &mut |_, _| Ok(()))
    }

    /// Learns what is new. Once the link is back, that is nothing.
    pub(super) fn renew(&mut self) {
        let (known, news) = self.reports.known_until();
        self.news = news;
        if known.is_some() {
            self.known = known;
        }
    }

    /// Tells the client of each slice that is otherwise than it was told before, or than is recorded; true if there was any.
    pub(super) fn tell(&mut self, part: &Part<'_>, out: &mut Outflow<'_>) -> io::Result<bool> {
        let (mut frame, mut any) = (Vec::new(), false);
        let envelope: &Envelope = part.envelope;
        self.each_change(part, &mut |slice, bytes| {
            any = true;
            frame.clear();
            envelope.event(EventKind::Modified, bytes, slice.flags, "", false, &mut frame);
            out.write_all(&frame)
        })?;
        Ok(any)
    }

    /// Calls `visit` with each slice that the client does not hold as it is known to be; it holds it then.
    fn each_change(&mut self, part: &Part<'_>, visit: &mut Visit<'_>) -> io::Result<()> {
        let Some(known) = self.known.clone() else { return Ok(()) };
        let (encoding, at) = (part.envelope.encoding(), part.collection.version());
        let recorded = Part { corrected_by: None, ..*part };
        recorded.each(&mut |reference, bytes| {
            let was_told = self.told.get(&reference.key).copied();
            // With the version that it is recorded at: what it says is what counts.
            let Some(now) = known.correct(encoding, bytes, None, was_told.is_some()) else { return Ok(()) };
            let said = hash(&now);
            if was_told == Some(said) {
                return Ok(());
            }
            self.told.insert(reference.key.clone(), said);
            let corrected = known.correct(encoding, bytes, at, true).unwrap_or(now);
            visit(reference, &corrected)
        })
    }
}

type Visit<'a> = dyn FnMut(&ObjectRef, &[u8]) -> io::Result<()> + 'a;

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
