//! Header fields on their way through: which go up, which come down, which are kept with a recorded document. Pure.

use crate::decide::Keep;
use crate::identity::Identity;
use crate::request::{ApiRequest, Class};

/// Header fields as they travel between the rooms.
pub(super) type Fields = Vec<(String, Vec<u8>)>;

/// The first field of a name, as text.
pub(super) fn get<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).and_then(|(_, v)| std::str::from_utf8(v).ok())
}

/// All fields of a name joined by `, ` (RFC 9110 section 5.3).
pub(super) fn joined(fields: &[(String, Vec<u8>)], name: &str) -> Option<String> {
    let mut values =
        fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| String::from_utf8_lossy(v));
    let first = values.next()?.into_owned();
    Some(values.fold(first, |all, v| all + ", " + &v))
}

/// Fields that concern one connection only (RFC 9110 section 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields by which it is decided who asks and for what. They are meant for the origin, so that `Connection` must not name
/// them (RFC 9110 section 7.6.1); a client that names them all the same must not have them dropped after they have been
/// read here: the upstream would answer somebody else, or something else, than what is recorded. kube-apiserver itself
/// takes no notice of what `Connection` names.
const END_TO_END: [&str; 4] = ["authorization", "accept", "content-type", "content-encoding"];

/// Fields with which something in front of an apiserver vouches for a client: nothing that a client may say itself.
/// Envoy's, and those of RFC 9440.
const VOUCHING: [&str; 3] = ["x-forwarded-client-cert", "client-cert", "client-cert-chain"];

fn is_hop_by_hop(name: &str, connection: Option<&str>) -> bool {
    let end_to_end = || END_TO_END.iter().any(|e| name.eq_ignore_ascii_case(e)) || has_prefix(name, "impersonate-");
    HOP_BY_HOP.iter().any(|h| name.eq_ignore_ascii_case(h))
        || connection.is_some_and(|c| c.split(',').any(|named| named.trim().eq_ignore_ascii_case(name)))
            && !end_to_end()
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|p| p.eq_ignore_ascii_case(prefix))
}

/// Whether we ask the upstream for gzip and hand the client the plain bytes: for what is recorded and may be long.
fn is_inflated(request: &ApiRequest) -> bool {
    matches!(request.class, Class::Object | Class::List | Class::Discovery) && !request.is_head()
}

/// The fields of a request as they go up.
///
/// Stopped here: what concerns the connection only, but for `Upgrade` where that is what is asked for; framing, `Host` and `Expect`, which the upstream room makes anew;
/// `X-Remote-*` and others with which a front proxy would vouch for a user; `Authorization`, unless a token is how the
/// client proves itself, and then the first, which is the one that was read; and, where the whole answer is wanted for the record, the conditions under which the upstream would
/// send none (`revalidates`: the record holds the answer already).
pub(super) fn up(
    request: &ApiRequest,
    identity: &Identity,
    fields: &[(String, Vec<u8>)],
    keep: Keep,
    revalidates: bool,
) -> Fields {
    let connection = joined(fields, "connection");
    let inflated = is_inflated(request);
    let mut authorized = !matches!(identity, Identity::Token { .. });
    let mut up: Fields = fields
        .iter()
        .filter(|(name, _)| {
            let own = ["host", "expect", "content-length"].iter().any(|n| name.eq_ignore_ascii_case(n));
            let credentials = name.eq_ignore_ascii_case("authorization") && std::mem::replace(&mut authorized, true);
            let coding = name.eq_ignore_ascii_case("accept-encoding") && (inflated || request.class == Class::Watch);
            let condition = keep == Keep::Document && !revalidates && has_prefix(name, "if-");
            let protocol = request.class == Class::Upgrade && name.eq_ignore_ascii_case("upgrade");
            !(own
                || credentials
                || coding
                || condition
                || has_prefix(name, "x-remote-")
                || VOUCHING.iter().any(|v| name.eq_ignore_ascii_case(v))
                || is_hop_by_hop(name, connection.as_deref()) && !protocol)
        })
        .cloned()
        .collect();
    if inflated {
        up.push(("Accept-Encoding".to_owned(), b"gzip".to_vec()));
    }
    up
}

/// Whether this answer's body is to be inflated on its way to the client.
pub(super) fn is_gzipped(request: &ApiRequest, answer: &[(String, Vec<u8>)]) -> bool {
    is_inflated(request) && get(answer, "content-encoding").is_some_and(|v| v.eq_ignore_ascii_case("gzip"))
}

/// The fields of an answer as they go down. Framing is the front's.
pub(super) fn down(answer: &[(String, Vec<u8>)], inflated: bool) -> Vec<(&str, &[u8])> {
    let connection = joined(answer, "connection");
    answer
        .iter()
        .filter(|(name, _)| {
            let coding = inflated && name.eq_ignore_ascii_case("content-encoding");
            !(coding || name.eq_ignore_ascii_case("content-length") || is_hop_by_hop(name, connection.as_deref()))
        })
        .map(|(n, v)| (n.as_str(), v.as_slice()))
        .collect()
}

/// Fields that are kept with a document, because they say what its body is.
const KEPT: [&str; 4] = ["content-type", "etag", "cache-control", "vary"];

/// The kept fields of an answer, as the head of a recorded document: `name: value` a line.
pub(super) fn to_keep(answer: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in answer {
        if KEPT.iter().any(|k| name.eq_ignore_ascii_case(k)) && !value.contains(&b'\n') {
            head.extend_from_slice(name.to_ascii_lowercase().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.push(b'\n');
        }
    }
    head
}

/// Reads what [`to_keep`] wrote.
pub(super) fn kept(head: &[u8]) -> Fields {
    head.split(|b| *b == b'\n')
        .filter_map(|line| {
            let colon = line.iter().position(|b| *b == b':')?;
            let value = line.get(colon + 2..)?;
            Some((String::from_utf8_lossy(&line[..colon]).into_owned(), value.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect()
    }

    fn names(fields: &Fields) -> Vec<&str> {
        fields.iter().map(|(n, _)| n.as_str()).collect()
    }

    fn get_request(target: &str) -> ApiRequest {
        ApiRequest::new("GET", target, &|_| None).expect("understood")
    }

    #[test]
    fn what_concerns_the_connection_or_vouches_for_a_user_stops_here() {
        let sent = fields(&[
            ("Host", "x"),
            ("Connection", "keep-alive, X-Mine"),
            ("X-Mine", "1"),
            ("TE", "trailers"),
            ("X-Remote-User", "system:masters"),
            ("x-remote-group", "g"),
            ("X-Forwarded-Client-Cert", "Subject=\"CN=admin\""),
            ("Client-Cert", ":MII=:"),
            ("Expect", "100-continue"),
            ("Content-Length", "3"),
            ("Authorization", "Basic abc"),
            ("Impersonate-User", "a"),
            ("User-Agent", "kubectl"),
        ]);
        let up = up(&get_request("/healthz"), &Identity::Anonymous, &sent, Keep::Nothing, false);
        assert_eq!(names(&up), ["Impersonate-User", "User-Agent"]);
    }

    #[test]
    fn a_token_goes_up_only_where_it_is_the_identity() {
        let sent = fields(&[("Authorization", "Bearer t")]);
        let hash = crate::identity::TokenHash::of("t");
        let request = get_request("/healthz");
        let token = Identity::Token { hash, claims: None };
        assert_eq!(names(&up(&request, &token, &sent, Keep::Nothing, false)), ["Authorization"]);
        let twice = [fields(&[("Authorization", "Bearer t")]), fields(&[("authorization", "Bearer u")])].concat();
        assert_eq!(super::up(&request, &token, &twice, Keep::Nothing, false), sent, "the one that was read");
        let named = [sent.clone(), fields(&[("Connection", "authorization")])].concat();
        assert_eq!(super::up(&request, &token, &named, Keep::Nothing, false), sent, "it cannot be made to vanish");
        let certificate = Identity::Certificate { common_name: "c".into() };
        assert!(up(&request, &certificate, &sent, Keep::Nothing, false).is_empty());
    }

    #[test]
    fn another_protocol_is_asked_for_as_the_client_asks() {
        let sent = fields(&[
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", "v5.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
            ("Sec-WebSocket-Key", "k"),
        ]);
        let header = |name: &str| joined(&sent, name);
        let request = ApiRequest::new("POST", "/api/v1/namespaces/n/pods/p/exec", &header).expect("understood");
        let up = up(&request, &Identity::Anonymous, &sent, Keep::Nothing, false);
        assert_eq!(up, sent[1..]);
    }

    #[test]
    fn gzip_is_asked_for_where_bodies_are_recorded() {
        let sent = fields(&[("Accept-Encoding", "br"), ("If-None-Match", "\"e\"")]);
        let asked = |target, keep, known| up(&get_request(target), &Identity::Anonymous, &sent, keep, known);
        assert_eq!(asked("/apis", Keep::Document, false), fields(&[("Accept-Encoding", "gzip")]));
        assert_eq!(names(&asked("/apis", Keep::Document, true)), ["If-None-Match", "Accept-Encoding"]);
        assert_eq!(names(&asked("/api/v1/pods?watch=1", Keep::Events, false)), ["If-None-Match"]);
        assert_eq!(asked("/healthz", Keep::Nothing, false), sent);
    }

    #[test]
    fn a_documents_head_comes_back_as_it_was_kept() {
        let answer =
            fields(&[("Content-Type", "application/json"), ("date", "now"), ("ETag", "\"a:b\""), ("audit-id", "x")]);
        assert_eq!(kept(&to_keep(&answer)), fields(&[("content-type", "application/json"), ("etag", "\"a:b\"")]));
    }
}
