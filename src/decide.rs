//! The table of design.md ("What is decided") as one pure function of (request, caller, link) and, once something was
//! asked of the upstream, of what came of it. No sockets, no files, no clock; it knows neither the store nor the
//! upstream, only what the other rooms found out.

use crate::request::{ApiRequest, Class};

/// What is known before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// The link is down: nothing but probes is sent.
    pub link_down: bool,
    /// Whose record may be read.
    pub reader: Reader,
    /// What the record could answer to this very request.
    pub recorded: Recorded,
}

/// Whether the caller may be served what its scope recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Its scope is known, and its credentials were good when they are judged.
    Known,
    /// A token that the upstream has not accepted (yet, or any more): its scope has no record.
    Unknown,
    /// A token that had expired when the link was last up.
    Expired,
    /// The link has been down for longer than `--offline-grace`.
    GraceOver,
}

/// What the record holds for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// An answer in a representation that the client takes.
    Yes,
    /// Answers, but in no representation that the client takes.
    OtherRepresentation,
    /// Nothing.
    No,
}

/// What to do first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Send it upstream.
    Forward {
        /// What of the answer is to be recorded, should it turn out well.
        keep: Keep,
        /// How long to wait for the answer's first byte.
        patience: Patience,
    },
    /// Join the client with the upstream, both ways.
    Tunnel,
    /// Answer from the record.
    Recall,
    /// Answer a watch from the record, and hold it open.
    Hold,
    /// Say why not.
    Refuse(Refusal),
}

/// What of an answer is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// The body as one document.
    Document,
    /// That there is no such object.
    Absence,
    /// The body's objects, as the collection of this view.
    Collection,
    /// Each event, folded into the collection of this view.
    Events,
    /// The answer to this very body: a minted token, or a review.
    Reply,
    /// The object that a write returned, where its document is recorded already.
    Refresh,
}

/// How long to wait for the first byte of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// `--timeout`: the record could answer instead.
    Short,
    /// `--slow-timeout`: nothing else could.
    Long,
}

/// Why there is no answer; each becomes one `metav1.Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 503: the link is down, and this cannot be done without the upstream.
    LinkDown,
    /// 503: the link is down, and this was never recorded.
    NotRecorded,
    /// 503: the link is down, and the token's acceptance was never seen.
    UnknownToken,
    /// 401: the token had expired before the link went down.
    ExpiredToken,
    /// 503: the link has been down for longer than recorded data may be served.
    GraceOver,
    /// 406: recorded, but in another representation.
    NotAcceptable,
    /// 504: sent, and no answer came in time.
    TimedOut,
    /// 502: sent, and the connection broke before an answer came.
    Broken,
    /// 400: it cannot be sent as it is.
    Unsendable,
}

/// What came of asking the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The status is a 500 that speaks of etcd: the upstream could not reach its own storage.
        etcd_failed: bool,
    },
    /// Nothing was sent: no connection could be made.
    Unreachable,
    /// No first byte in time.
    TimedOut,
    /// The connection broke first.
    Broken,
    /// The request cannot be sent.
    Unsendable,
    /// The client went away.
    ClientGone,
}

/// What to do with what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Pass the upstream's answer on, recording what is said.
    Relay(Keep),
    /// Pass it on, and drop what the caller's scope recorded of this view.
    RelayAndDrop,
    /// Pass it on, and forget the caller's token.
    RelayAndForgetToken,
    /// Answer from the record.
    Recall,
    /// Answer a watch from the record.
    Hold,
    /// Say why not.
    Refuse(Refusal),
    /// Nobody is there to be answered.
    HangUp,
}

/// Decides what to do with a request.
pub fn before(request: &ApiRequest, now: Situation) -> Plan {
    if now.link_down {
        return offline(request.class, now);
    }
    if request.class == Class::Upgrade {
        return Plan::Tunnel;
    }
    let recallable = now.reader == Reader::Known && now.recorded == Recorded::Yes;
    let patience = if request.is_read() && recallable { Patience::Short } else { Patience::Long };
    let keep = match request.class {
        _ if request.is_head() => Keep::Nothing,
        Class::Object | Class::Discovery => Keep::Document,
        Class::List => Keep::Collection,
        Class::Watch => Keep::Events,
        Class::TokenRequest | Class::Review => Keep::Reply,
        Class::Write => Keep::Refresh,
        Class::Passing | Class::Upgrade => Keep::Nothing,
    };
    Plan::Forward { keep, patience }
}

/// Decides what to do with what came of [`Plan::Forward`].
pub fn after(request: &ApiRequest, now: Situation, keep: Keep, outcome: Outcome) -> Next {
    let unavailable = match outcome {
        Outcome::ClientGone => return Next::HangUp,
        Outcome::Unsendable => return Next::Refuse(Refusal::Unsendable),
        Outcome::Answered { status, etcd_failed } if !(matches!(status, 502..=504) || etcd_failed) => {
            return answered(request.class, keep, status);
        }
        Outcome::Answered { .. } => None,
        Outcome::Unreachable => Some(Refusal::LinkDown),
        Outcome::TimedOut => Some(Refusal::TimedOut),
        Outcome::Broken => Some(Refusal::Broken),
    };
    // What changes nothing may be answered from the record while the upstream is merely unwell; a write was perhaps
    // carried out. A token too many is nobody's loss, and without one the kubelet cannot start its pod.
    let unsent = outcome == Outcome::Unreachable;
    if request.class != Class::Write || unsent {
        match offline(request.class, now) {
            Plan::Recall => return Next::Recall,
            Plan::Hold => return Next::Hold,
            Plan::Refuse(why) if unsent => return Next::Refuse(why),
            _ => {}
        }
    }
    unavailable.map_or(Next::Relay(Keep::Nothing), Next::Refuse)
}

/// What is done without the upstream.
fn offline(class: Class, now: Situation) -> Plan {
    let read = match class {
        Class::Object | Class::List | Class::Discovery | Class::TokenRequest | Class::Review => Plan::Recall,
        Class::Watch => Plan::Hold,
        Class::Passing | Class::Upgrade | Class::Write => return Plan::Refuse(Refusal::LinkDown),
    };
    match (now.reader, now.recorded) {
        (Reader::Unknown, _) => Plan::Refuse(Refusal::UnknownToken),
        (Reader::Expired, _) => Plan::Refuse(Refusal::ExpiredToken),
        (Reader::GraceOver, _) => Plan::Refuse(Refusal::GraceOver),
        (Reader::Known, Recorded::Yes) => read,
        (Reader::Known, Recorded::OtherRepresentation) => Plan::Refuse(Refusal::NotAcceptable),
        (Reader::Known, Recorded::No) => Plan::Refuse(Refusal::NotRecorded),
    }
}

/// What the upstream's own word means for the record.
fn answered(class: Class, keep: Keep, status: u16) -> Next {
    match (status, class) {
        (401, _) => Next::RelayAndForgetToken,
        (403, Class::Object | Class::List | Class::Watch | Class::Discovery) => Next::RelayAndDrop,
        (404, Class::Object | Class::Discovery) if keep != Keep::Nothing => Next::Relay(Keep::Absence),
        (404, Class::List | Class::Watch) => Next::RelayAndDrop,
        (200, _) => Next::Relay(keep),
        (201, Class::TokenRequest | Class::Review | Class::Write) => Next::Relay(keep),
        _ => Next::Relay(Keep::Nothing),
    }
}

/// Whether this status shows that the upstream accepted the caller's token: what is said after authentication (design.md,
/// "Who is asking"; not 400, 429 or 5xx, which something before it may say).
pub fn shows_acceptance(status: u16) -> bool {
    matches!(status, 200..=299 | 403 | 404 | 405 | 409 | 410 | 422)
}

/// How an offline watch begins (design.md, "Offline watch").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Every object as ADDED, then, if `bookmark`, a BOOKMARK that says that these were all.
    Everything {
        /// Whether the bookmark follows.
        bookmark: bool,
    },
    /// Nothing: the client has what the record holds.
    Silence,
    /// An ERROR event, 410: the client's place in history is not in the record.
    Expired,
    /// An ERROR event, 504: the client asks for initial events newer than the record's.
    TooLarge,
}

/// The versions at which a recorded collection holds what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeldAt {
    /// Its resourceVersion.
    pub version: Option<u64>,
    /// The resourceVersion since which nothing in it has changed, as far as is known.
    pub unchanged_since: Option<u64>,
}

impl HeldAt {
    /// Whether who has seen everything up to `asked` has seen all that is held.
    pub fn is_known_at(&self, asked: u64) -> bool {
        self.version.is_some() && self.unchanged_since.or(self.version).is_some_and(|since| asked >= since)
    }
}

/// Decides how an offline watch of a collection begins.
///
/// `asked` is the request's resourceVersion (`None`: none); `initial` its `sendInitialEvents`, `bookmarks` its
/// `allowWatchBookmarks`. A version that is no integer matches only itself, which cannot be told here: it is expired.
/// An earlier position since which nothing has changed is as good as the collection's own: of several watches of a view
/// one is often behind the others by a bookmark, and to list again for it costs client-go up to 30 s of back-off.
pub fn opening(asked: Option<&str>, initial: bool, bookmarks: bool, held: HeldAt) -> Opening {
    let everything = Opening::Everything { bookmark: initial || bookmarks };
    let Some(asked) = asked.filter(|v| *v != "0") else { return everything };
    let (Ok(asked), Some(version)) = (asked.parse::<u64>(), held.version) else { return Opening::Expired };
    match (initial, asked > version) {
        (true, true) => Opening::TooLarge,
        (true, false) => everything,
        (false, _) if held.is_known_at(asked) => Opening::Silence,
        (false, _) => Opening::Expired,
    }
}

/// Whether a recorded collection is what a list (or a get out of it) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fits {
    /// It is.
    Yes,
    /// 410: the client must list again, without its `continue` token or exact version.
    Expired,
    /// 504: the client has seen something newer.
    TooLarge,
}

/// How the resourceVersion of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// That version or any later one.
    NotOlderThan,
    /// That version and no other.
    Exact,
    /// Not at all: the request has a `continue` token, which only the upstream can honour.
    Continued,
}

/// How a list means its resourceVersion; the error says why kube-apiserver would refuse it, with 422
/// (`staging/src/k8s.io/apimachinery/pkg/apis/meta/internalversion/validation/validation.go`, `ValidateListOptions`).
///
/// `matching` is its `resourceVersionMatch`; `limited`: it has a `limit`, and without a match then means exactly that
/// version (`staging/src/k8s.io/apiserver/pkg/storage/etcd3/store.go`, `GetList`).
pub fn version_match(
    version: Option<&str>,
    matching: Option<&str>,
    limited: bool,
    continued: bool,
) -> Result<Match, &'static str> {
    let matching = matching.filter(|m| !m.is_empty());
    match (matching, version) {
        (Some(_), None) => {
            Err("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")
        }
        (Some(_), _) if continued => {
            Err("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided")
        }
        (Some("Exact"), Some("0")) => Err(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (Some("Exact"), _) => Ok(Match::Exact),
        (Some("NotOlderThan"), _) => Ok(Match::NotOlderThan),
        (Some(_), _) => {
            Err("resourceVersionMatch: Unsupported value: supported values: \"Exact\", \"NotOlderThan\", \"\"")
        }
        (None, _) if continued => Ok(Match::Continued),
        (None, Some(_)) if limited => Ok(Match::Exact),
        (None, _) => Ok(Match::NotOlderThan),
    }
}

/// Decides whether a collection at `held` may answer a list, or a get out of it, that asks for a version.
pub fn fits(asked: Option<&str>, how: Match, held: Option<u64>) -> Fits {
    if how == Match::Continued {
        return Fits::Expired;
    }
    let exact = how == Match::Exact;
    let Some(asked) = asked.filter(|v| *v != "0") else { return Fits::Yes };
    match (asked.parse::<u64>(), held) {
        (Ok(asked), Some(held)) if exact && asked != held => Fits::Expired,
        (Ok(asked), Some(held)) if asked > held => Fits::TooLarge,
        (Ok(_), _) => Fits::Yes,
        (Err(_), _) => Fits::Expired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(class: Class) -> ApiRequest {
        let (method, target) = match class {
            Class::Object => ("GET", "/api/v1/nodes/n"),
            Class::List => ("GET", "/api/v1/nodes"),
            Class::Watch => ("GET", "/api/v1/nodes?watch=1"),
            Class::Discovery => ("GET", "/apis"),
            Class::Passing => ("GET", "/healthz"),
            Class::Upgrade => ("POST", "/api/v1/namespaces/x/pods/p/exec"),
            Class::TokenRequest => ("POST", "/api/v1/namespaces/x/serviceaccounts/s/token"),
            Class::Review => ("POST", "/apis/authentication.k8s.io/v1/tokenreviews"),
            Class::Write => ("PATCH", "/api/v1/nodes/n"),
        };
        let header = move |name: &str| {
            (class == Class::Upgrade && matches!(name, "connection" | "upgrade")).then(|| "upgrade".to_owned())
        };
        let request = ApiRequest::new(method, target, &header).expect("understood");
        assert_eq!(request.class, class);
        request
    }

    const ALL: [Class; 9] = [
        Class::Object,
        Class::List,
        Class::Watch,
        Class::Discovery,
        Class::Passing,
        Class::Upgrade,
        Class::TokenRequest,
        Class::Review,
        Class::Write,
    ];

    fn situation(link_down: bool, recorded: Recorded) -> Situation {
        Situation { link_down, reader: Reader::Known, recorded }
    }

    #[test]
    fn the_column_link_up() {
        use Keep::{Collection, Document, Events, Nothing, Refresh, Reply};
        let keeps = [Document, Collection, Events, Document, Nothing, Nothing, Reply, Reply, Refresh];
        for (class, keep) in ALL.into_iter().zip(keeps) {
            for recorded in [Recorded::Yes, Recorded::No, Recorded::OtherRepresentation] {
                let got = before(&ask(class), situation(false, recorded));
                let short = recorded == Recorded::Yes && ask(class).is_read();
                let want = match class {
                    Class::Upgrade => Plan::Tunnel,
                    _ => Plan::Forward { keep, patience: if short { Patience::Short } else { Patience::Long } },
                };
                assert_eq!(got, want, "{class:?} {recorded:?}");
            }
        }
    }

    #[test]
    fn the_column_link_down() {
        for class in ALL {
            let got = |reader, recorded| before(&ask(class), Situation { link_down: true, reader, recorded });
            let served = match class {
                Class::Watch => Plan::Hold,
                Class::Passing | Class::Upgrade | Class::Write => Plan::Refuse(Refusal::LinkDown),
                _ => Plan::Recall,
            };
            assert_eq!(got(Reader::Known, Recorded::Yes), served, "{class:?}");
            if served == Plan::Refuse(Refusal::LinkDown) {
                continue;
            }
            assert_eq!(got(Reader::Known, Recorded::No), Plan::Refuse(Refusal::NotRecorded), "{class:?}");
            assert_eq!(
                got(Reader::Known, Recorded::OtherRepresentation),
                Plan::Refuse(Refusal::NotAcceptable),
                "{class:?}"
            );
            for (reader, why) in [
                (Reader::Unknown, Refusal::UnknownToken),
                (Reader::Expired, Refusal::ExpiredToken),
                (Reader::GraceOver, Refusal::GraceOver),
            ] {
                assert_eq!(got(reader, Recorded::Yes), Plan::Refuse(why), "{class:?}");
            }
        }
    }

    fn came(class: Class, recorded: Recorded, outcome: Outcome) -> Next {
        let now = situation(false, recorded);
        let keep = match before(&ask(class), now) {
            Plan::Forward { keep, .. } => keep,
            _ => Keep::Nothing,
        };
        after(&ask(class), now, keep, outcome)
    }

    #[test]
    fn the_upstreams_own_word_passes() {
        for status in [200, 201, 204, 301, 304, 400, 401, 403, 404, 405, 406, 409, 410, 415, 422, 429, 500, 501] {
            for class in ALL {
                let next = came(class, Recorded::Yes, Outcome::Answered { status, etcd_failed: false });
                assert!(
                    matches!(next, Next::Relay(_) | Next::RelayAndDrop | Next::RelayAndForgetToken),
                    "{class:?} {status}: {next:?}"
                );
            }
        }
    }

    #[test]
    fn what_an_answer_means_for_the_record() {
        let answer = |class, status| came(class, Recorded::Yes, Outcome::Answered { status, etcd_failed: false });
        let cases = [
            (Class::Object, 200, Next::Relay(Keep::Document)),
            (Class::Object, 404, Next::Relay(Keep::Absence)),
            (Class::Object, 403, Next::RelayAndDrop),
            (Class::Object, 401, Next::RelayAndForgetToken),
            (Class::Object, 304, Next::Relay(Keep::Nothing)),
            (Class::List, 200, Next::Relay(Keep::Collection)),
            (Class::List, 404, Next::RelayAndDrop),
            (Class::List, 410, Next::Relay(Keep::Nothing)),
            (Class::Watch, 200, Next::Relay(Keep::Events)),
            (Class::Watch, 403, Next::RelayAndDrop),
            (Class::Passing, 404, Next::Relay(Keep::Nothing)),
            (Class::TokenRequest, 201, Next::Relay(Keep::Reply)),
            (Class::TokenRequest, 403, Next::Relay(Keep::Nothing)),
            (Class::Review, 201, Next::Relay(Keep::Reply)),
            (Class::Write, 200, Next::Relay(Keep::Refresh)),
            (Class::Write, 409, Next::Relay(Keep::Nothing)),
        ];
        for (class, status, want) in cases {
            assert_eq!(answer(class, status), want, "{class:?} {status}");
        }
    }

    #[test]
    fn an_unwell_upstream_is_unavailable_for_reads_only() {
        let unwell = [
            Outcome::Answered { status: 502, etcd_failed: false },
            Outcome::Answered { status: 503, etcd_failed: false },
            Outcome::Answered { status: 504, etcd_failed: false },
            Outcome::Answered { status: 500, etcd_failed: true },
        ];
        for outcome in unwell {
            assert_eq!(came(Class::List, Recorded::Yes, outcome), Next::Recall);
            assert_eq!(came(Class::Watch, Recorded::Yes, outcome), Next::Hold);
            // Not recorded: the upstream's own words are better than ours.
            assert_eq!(came(Class::List, Recorded::No, outcome), Next::Relay(Keep::Nothing));
            assert_eq!(came(Class::Write, Recorded::Yes, outcome), Next::Relay(Keep::Nothing));
            assert_eq!(came(Class::TokenRequest, Recorded::Yes, outcome), Next::Recall);
            assert_eq!(came(Class::TokenRequest, Recorded::No, outcome), Next::Relay(Keep::Nothing));
        }
    }

    #[test]
    fn what_did_not_come_at_all() {
        use Outcome::{Broken, ClientGone, TimedOut, Unreachable, Unsendable};
        let cases = [
            (Class::Object, Recorded::Yes, Unreachable, Next::Recall),
            (Class::Object, Recorded::No, Unreachable, Next::Refuse(Refusal::NotRecorded)),
            (Class::Object, Recorded::Yes, TimedOut, Next::Recall),
            (Class::Object, Recorded::No, TimedOut, Next::Refuse(Refusal::TimedOut)),
            (Class::Watch, Recorded::Yes, Broken, Next::Hold),
            (Class::TokenRequest, Recorded::Yes, Unreachable, Next::Recall),
            (Class::TokenRequest, Recorded::Yes, Broken, Next::Recall),
            (Class::TokenRequest, Recorded::No, Broken, Next::Refuse(Refusal::Broken)),
            (Class::Write, Recorded::Yes, Unreachable, Next::Refuse(Refusal::LinkDown)),
            (Class::Write, Recorded::Yes, TimedOut, Next::Refuse(Refusal::TimedOut)),
            (Class::Write, Recorded::No, Broken, Next::Refuse(Refusal::Broken)),
            (Class::Passing, Recorded::No, Unreachable, Next::Refuse(Refusal::LinkDown)),
            (Class::Write, Recorded::No, ClientGone, Next::HangUp),
            (Class::Object, Recorded::Yes, Unsendable, Next::Refuse(Refusal::Unsendable)),
        ];
        for (class, recorded, outcome, want) in cases {
            assert_eq!(came(class, recorded, outcome), want, "{class:?} {recorded:?} {outcome:?}");
        }
    }

    #[test]
    fn an_offline_watch_begins_as_the_table_says() {
        use Opening::{Everything, Expired, Silence, TooLarge};
        let all = |bookmark| Everything { bookmark };
        let cases = [
            (None, true, false, all(true)),
            (Some("0"), true, true, all(true)),
            (Some("5"), true, true, all(true)),
            (Some("9"), true, true, all(true)),
            (Some("10"), true, true, TooLarge),
            (None, false, true, all(true)),
            (None, false, false, all(false)),
            (Some("0"), false, false, all(false)),
            (Some("6"), false, true, Expired),
            (Some("7"), false, true, Silence),
            (Some("7"), true, true, all(true)),
            (Some("9"), false, true, Silence),
            (Some("10"), false, true, Silence),
            (Some("x"), false, true, Expired),
        ];
        for (asked, initial, bookmarks, want) in cases {
            let held = HeldAt { version: Some(9), unchanged_since: Some(7) };
            assert_eq!(opening(asked, initial, bookmarks, held), want, "{asked:?} {initial} {bookmarks}");
        }
        assert_eq!(opening(Some("1"), false, false, HeldAt::default()), Expired);
        let unknown = HeldAt { version: Some(9), unchanged_since: None };
        assert_eq!([8, 9].map(|asked| unknown.is_known_at(asked)), [false, true]);
    }

    #[test]
    fn a_list_is_served_where_the_record_is_what_it_asks_for() {
        use Match::{Continued, Exact, NotOlderThan};
        let cases = [
            (None, NotOlderThan, Fits::Yes),
            (Some("0"), NotOlderThan, Fits::Yes),
            // With a limit and without a match: `0` is any version all the same.
            (Some("0"), Exact, Fits::Yes),
            (Some("9"), NotOlderThan, Fits::Yes),
            (Some("8"), NotOlderThan, Fits::Yes),
            (Some("10"), NotOlderThan, Fits::TooLarge),
            (Some("x"), NotOlderThan, Fits::Expired),
            (Some("9"), Exact, Fits::Yes),
            (Some("8"), Exact, Fits::Expired),
            (Some("10"), Exact, Fits::Expired),
            (None, Continued, Fits::Expired),
        ];
        for (asked, how, want) in cases {
            assert_eq!(fits(asked, how, Some(9)), want, "{asked:?} {how:?}");
        }
    }

    #[test]
    fn a_lists_version_is_meant_as_kube_apiserver_means_it() {
        use Match::{Continued, Exact, NotOlderThan};
        for (version, matching, limited, continued, want) in [
            (None, None, false, false, Some(NotOlderThan)),
            (Some("5"), None, false, false, Some(NotOlderThan)),
            (Some("0"), Some("NotOlderThan"), true, false, Some(NotOlderThan)),
            (Some("5"), Some("NotOlderThan"), true, false, Some(NotOlderThan)),
            (Some("5"), Some("Exact"), false, false, Some(Exact)),
            (Some("5"), None, true, false, Some(Exact)),
            (None, None, true, false, Some(NotOlderThan)),
            (None, Some(""), true, true, Some(Continued)),
            (Some("0"), Some("Exact"), false, false, None),
            (None, Some("Exact"), false, false, None),
            (None, Some("NotOlderThan"), false, false, None),
            (Some("5"), Some("Exact"), true, true, None),
            (Some("5"), Some("Newest"), false, false, None),
        ] {
            let got = version_match(version, matching, limited, continued);
            assert_eq!(got.ok(), want, "{version:?} {matching:?} {limited} {continued}");
        }
    }
}
