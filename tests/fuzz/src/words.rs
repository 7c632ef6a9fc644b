//! Words that a client or the upstream puts into header fields: media types, `Accept`, `Authorization`, a JWT's payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lite_apiserver::identity::{Caller, Claims, Ledger, bearer};
use lite_apiserver::request::{ApiRequest, MediaType, representation};

fuzz_target!(|data: &[u8]| {
    let field = |name: &str, value: &[u8]| vec![(name.to_owned(), value.to_vec())];
    token(&field("Authorization", data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    token(&field("Authorization", format!("Bearer {text}").as_bytes()));
    token(&field("Authorization", format!("Bearer h.{text}.s").as_bytes()));
    if let Some(claims) = Claims::read(text) {
        scope(&claims.scope());
    }
    let impersonating = Caller::new(Some(data), |_| true, &field("Impersonate-User", data));
    scope(&impersonating.scope(&Ledger::default()).expect("no token"));
    media_type(text);
});

/// A token is one word of the field, as kube-apiserver has it.
fn token(headers: &[(String, Vec<u8>)]) {
    let Some(token) = bearer(headers) else { return };
    let value = std::str::from_utf8(&headers[0].1).expect("a token is text");
    let words: Vec<&str> = value.trim().split(' ').collect();
    assert!(words[0].eq_ignore_ascii_case("bearer") && words[1] == token && !token.is_empty(), "{value:?}: {token:?}");
    if let Some(claims) = Claims::read(token) {
        scope(&claims.scope());
    }
}

/// One line, and its parts can be told from one another.
fn scope(scope: &str) {
    assert!(scope.is_ascii() && !scope.contains(|c: char| c.is_ascii_control()), "{scope:?}");
    assert!(scope.matches('|').count() <= 1 && scope.matches(" as ").count() <= 1, "{scope:?}");
}

/// What is recorded under a media type's own name is found again by it.
fn media_type(text: &str) {
    let header = |name: &str| (name == "accept").then(|| text.to_owned());
    let request = ApiRequest::new("GET", "/api/v1/pods", &header).expect("understood");
    let _ = request.accept.choose(&["application/json", "application/vnd.kubernetes.protobuf"]);
    let Some(media) = MediaType::parse(text) else { return };
    let name = media.to_string();
    assert_eq!(MediaType::parse(&name).as_ref(), Some(&media), "{name:?}");
    let recorded = representation(text, None).expect("a media type");
    assert_eq!(recorded, name);
    let header = |wanted: &str| (wanted == "accept").then(|| name.clone());
    let again = ApiRequest::new("GET", "/api/v1/pods", &header).expect("understood");
    assert!(name.contains(',') || again.accept.choose(&[&recorded]).is_some(), "{name:?} is not found again");
}
