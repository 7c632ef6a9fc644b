//! Lists anew, one view at a time, what a watch has left a hole in ([`super::holes`]): with the credentials and the
//! header fields of the client whose watch it was, and recorded like any list. One thread, owned by whoever started it.

use super::holes::Relist;
use super::keep::Recorder;
use super::relay;
use super::{Asked, Service, fields, outcome_of};
use crate::decide::{self, Keep, Next, Outcome, Reader, Recorded, Situation};
use crate::request::ApiRequest;
use crate::store::{Change, ViewKey};
use crate::upstream::{Answer, Outgoing};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The thread that lists anew; ended by [`Healing::stop`].
pub struct Healing {
    service: Arc<Service>,
    thread: JoinHandle<()>,
}

impl Healing {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(service: &Arc<Service>) -> io::Result<Healing> {
        let own = Arc::clone(service);
        let heal = move || {
            while let Some((key, relist)) = own.holes.next() {
                own.heal(&key, &relist);
            }
        };
        let thread = thread::Builder::new().name("heal".into()).spawn(heal)?;
        Ok(Healing { service: Arc::clone(service), thread })
    }

    /// Ends it. What it waits for must have been ended before (`Upstream::shutdown`), or is waited for.
    pub fn stop(self) {
        self.service.holes.stop();
        if self.thread.join().is_err() {
            log::error!("the thread that lists anew has panicked");
        }
    }
}

/// Why a list was asked for in vain.
struct Vain {
    why: String,
    /// How long the upstream wants to be left alone (`Retry-After`, RFC 9110 section 10.2.3; kube-apiserver writes seconds).
    not_before: Duration,
}

impl From<String> for Vain {
    fn from(why: String) -> Self {
        Self { why, not_before: Duration::ZERO }
    }
}

impl Service {
    fn heal(&self, key: &ViewKey, relist: &Relist) {
        self.counters.relists.fetch_add(1, Ordering::Relaxed);
        let outcome = self.list_anew(key, relist);
        if let Err(vain) = &outcome {
            log::warn!("{}: listed anew in vain: {}", relist.target, vain.why);
        }
        self.holes.listed(key, outcome.map_err(|vain| vain.not_before), self.live.is_live(key));
    }

    /// Asks for the list and records it; the error says why it is not recorded.
    fn list_anew(&self, key: &ViewKey, relist: &Relist) -> Result<(), Vain> {
        let header = |name: &str| fields::joined(&relist.headers, name);
        let request = ApiRequest::new("GET", &relist.target, &header).map_err(|e| Vain::from(e.0))?;
        let asked = self.asked_by_proxy(request, relist.caller.clone());
        let now = Situation { link_down: false, reader: Reader::Known, recorded: Recorded::No };
        let headers = fields::up(&asked.request, &asked.caller.identity, &relist.headers, Keep::Collection, false);
        let outgoing = Outgoing {
            method: "GET",
            target: &relist.target,
            headers: &headers,
            body: None,
            first_byte: self.options.slow_timeout,
            client: None,
            stop: None,
        };
        let credentials = relay::credentials(&asked.caller.identity);
        let answer = match self.upstream.fetch(&self.upstream.known(), &credentials, outgoing) {
            Ok(answer) => answer,
            Err(e) => return Err(outcome_of(e).1.into()),
        };
        let status = answer.status;
        let not_before = fields::get(&answer.headers, "retry-after").and_then(|seconds| seconds.parse().ok());
        match decide::after(&asked.request, now, Keep::Collection, Outcome::Answered { status, etcd_failed: false }) {
            Next::Relay(Keep::Collection) => return self.take_list(key, &asked, answer).map_err(Vain::from),
            Next::RelayAndDrop => {
                self.drop_view(&asked);
                self.holes.give_up(key);
            }
            Next::RelayAndForgetToken => {
                self.forget_token(&asked);
                self.holes.give_up(key);
            }
            _ => {}
        }
        let not_before = not_before.map_or(Duration::ZERO, Duration::from_secs);
        Err(Vain { why: format!("the upstream answered {status}"), not_before })
    }

    fn take_list(&self, key: &ViewKey, asked: &Asked, answer: Answer<'_>) -> Result<(), String> {
        let mut recorder = Recorder::new(self, asked, &answer, Keep::Collection);
        let gzipped = fields::is_gzipped(&asked.request, &answer.headers);
        let mut body = relay::plain_body(answer.body, gzipped);
        let mut chunk = vec![0; relay::CHUNK];
        loop {
            match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => recorder.take(&chunk[..n]),
                Err(e) => return Err(e.to_string()),
            }
        }
        if !recorder.finish() {
            return Err("it cannot be recorded".to_owned());
        }
        log::info!("{}: listed anew", key.path);
        Ok(())
    }

    /// A request of the proxy's own, in a client's name.
    pub(super) fn asked_by_proxy(&self, request: ApiRequest, caller: crate::identity::Caller) -> Asked {
        let scope = caller.scope(&self.ledger());
        let held = self.held(&request, scope.as_deref());
        Asked { request, caller, scope, body: None, reply_query: None, held, headers: Vec::new() }
    }

    /// Notes whether a collection is complete. What cannot be written makes it incomplete, and the store has said so.
    pub(super) fn say(&self, key: &ViewKey, complete: Change<'_>) {
        if let Err(e) = self.store.fold(key, &[complete]) {
            log::debug!("{}: cannot be called complete: {e}", key.path);
        }
    }

    /// A collection has been committed, or has moved on: watches that waited for it go on with it.
    pub(super) fn fill_holes(&self, key: &ViewKey) {
        if !self.holes.contains(key) {
            return;
        }
        let Some((Some(version), _)) = self.standing(key) else { return };
        let fold = |changes: &[Change<'_>]| {
            let folded = self.store.fold(key, changes);
            folded.inspect_err(|e| log::warn!("{}: what was told meanwhile cannot be recorded: {e}", key.path))
        };
        if self.holes.fill(key, version, &fold) {
            self.say(key, Change::Complete);
        }
    }
}
