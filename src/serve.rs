//! One request's way: every stage, in order, on one screen.
//!
//! ```text
//! accept -> identify -> understand -> decide -> fetch or recall -> answer
//!                                         \-> record
//! ```
//!
//! The stages are other rooms' work; this room hands each one's plain value to the next. It owns what lives as long as
//! the daemon (the ledger of tokens, the counters, which watches are live, which wait for a list, lists in pages) and no
//! rule of its own: what is done is decided in `decide`, how objects are read in `record`, how they last in `store`.

mod clock;
mod cluster;
mod counters;
mod fields;
mod find;
mod heal;
mod hold;
mod holes;
mod keep;
mod keep_events;
mod keep_list;
mod live;
mod pages;
mod recall;
mod refusal;
mod relay;
mod rewrite;
mod service;
mod tell;
#[cfg(test)]
mod tests;
mod tunnel;
mod whereabouts;

pub use clock::Clock;
pub use heal::Healing;
pub use service::{Service, ServiceOptions, clock, was_dark};

use crate::decide::{self, Keep, Next, Outcome, Patience, Plan, Refusal, Situation};
use crate::front::{Exchange, Handler};
use crate::identity::Caller;
use crate::moment;
use crate::request::ApiRequest;
use crate::store::ViewKey;
use crate::upstream::{FetchError, Known, Upgraded};
use fields::Fields;
use find::Finding;
use std::io;
use std::sync::Arc;

/// One request, identified and understood.
struct Asked {
    /// What was asked.
    request: ApiRequest,
    /// Who asked.
    caller: Caller,
    /// Whose record it reads and fills; `None` while the caller's token is not accepted.
    scope: Option<String>,
    /// The request's whole body, where the view depends on it: token requests and reviews.
    body: Option<Vec<u8>>,
    /// What that body contributes to the view's query.
    reply_query: Option<String>,
    /// Of a list or a watch: the collections of its view before it was asked, by representation, and their versions.
    held: Vec<(String, Option<u64>)>,
    /// Of a watch: its header fields, with which the view is listed anew should it be necessary.
    headers: Fields,
}

/// How a request goes up.
struct Errand {
    /// What of the answer is to be recorded.
    keep: Keep,
    /// How long its first byte is waited for.
    patience: Patience,
    /// By which the caller was identified. Not kept for longer than the request is on its way: it holds connections.
    known: Arc<Known>,
}

impl Asked {
    /// The version below which an answer with the newest that there is shows that the upstream has gone back, as after an
    /// etcd restore: what was recorded before the request was sent. `None`: the request is content with less than the
    /// newest, or nothing was recorded.
    fn back_below(&self, key: &ViewKey) -> Option<u64> {
        let newest = self.request.query.resource_version().is_none();
        let held = self.held.iter().find(|(representation, _)| *representation == key.representation);
        held.filter(|_| newest).and_then(|(_, version)| *version)
    }

    /// The target, for people.
    fn shown_target(&self) -> &str {
        &self.request.raw_target
    }
}

impl Handler for Service {
    fn handle(&self, mut exchange: Exchange<'_>) -> io::Result<()> {
        let known = self.upstream.known();
        let caller = Service::identify(&exchange, &known);
        let asked = match self.understand(&mut exchange, caller) {
            Ok(asked) => asked,
            Err(told) => return tell::send(exchange, None, &[], &told),
        };
        let lasting = asked.request.is_long_running().then(|| exchange.lasts());
        if matches!(lasting, Some(None)) {
            return self.tell_busy(exchange, &asked);
        }
        let finding = self.look(&asked);
        let now = self.situation(&asked, &finding);
        match decide::before(&asked.request, now) {
            Plan::Forward { keep, patience } => {
                self.forward(exchange, &asked, &finding, now, Errand { keep, patience, known })
            }
            Plan::Recall => self.recall(exchange, &asked, &finding),
            Plan::Hold => self.hold(exchange, &asked, &finding),
            Plan::Tunnel => {
                let errand = Errand { keep: Keep::Nothing, patience: Patience::Long, known };
                self.forward(exchange, &asked, &finding, now, errand)
            }
            Plan::Refuse(why) => {
                self.listen(&mut exchange, &asked);
                self.refuse(exchange, &asked, why, &finding.representations.join(", "))
            }
        }
    }
}

impl Service {
    /// Asks the upstream, and does what is decided with what comes.
    fn forward(
        &self,
        mut exchange: Exchange<'_>,
        asked: &Asked,
        finding: &Finding,
        now: Situation,
        errand: Errand,
    ) -> io::Result<()> {
        let ends = exchange.ends();
        let fetched = self.fetch(&mut exchange, asked, finding, &errand, &ends);
        let Errand { keep, known, .. } = errand;
        drop(known);
        let (answer, outcome, detail) = match fetched {
            Ok(Upgraded::Tunnel(far)) => return self.tunnel(exchange, asked, *far, &ends),
            Ok(Upgraded::Answer(answer)) => {
                self.clock.heard(|| fields::get(&answer.headers, "date").and_then(moment::http_date));
                self.meet_cluster();
                let (answer, etcd_failed) = relay::look_for_etcd_failure(answer);
                let outcome = Outcome::Answered { status: answer.status, etcd_failed };
                (Some(answer), outcome, String::new())
            }
            Err(e) => {
                let (outcome, detail) = outcome_of(e);
                (None, outcome, detail)
            }
        };
        if let Outcome::Answered { status, .. } = outcome {
            self.note_acceptance(asked, status);
        }
        match (decide::after(&asked.request, now, keep, outcome), answer) {
            (Next::Relay(keep), Some(answer)) => self.relay(exchange, asked, answer, keep),
            (Next::RelayAndDrop, Some(answer)) => {
                self.drop_view(asked);
                self.relay(exchange, asked, answer, Keep::Nothing)
            }
            (Next::RelayAndForgetToken, Some(answer)) => {
                self.forget_token(asked);
                self.relay(exchange, asked, answer, Keep::Nothing)
            }
            (Next::Recall, _) => self.recall(exchange, asked, finding),
            (Next::Hold, _) => self.hold(exchange, asked, finding),
            (Next::HangUp, _) => Err(io::ErrorKind::BrokenPipe.into()),
            (Next::Refuse(why), _) => self.refuse(exchange, asked, why, &detail),
            // `decide` relays only what was answered.
            (_, None) => self.refuse(exchange, asked, Refusal::Broken, "no answer to pass on"),
        }
    }
}

/// A failed fetch in the words of `decide`, with its detail for people.
fn outcome_of(error: FetchError) -> (Outcome, String) {
    match error {
        FetchError::Unreachable(why) => (Outcome::Unreachable, why),
        FetchError::TimedOut => (Outcome::TimedOut, "no first byte".to_owned()),
        FetchError::Broken(why) => (Outcome::Broken, why),
        FetchError::ClientGone | FetchError::ClientBody(_) => (Outcome::ClientGone, String::new()),
        FetchError::Unsendable(why) => (Outcome::Unsendable, why),
    }
}
