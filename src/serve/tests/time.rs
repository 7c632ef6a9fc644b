//! Boots in 1970, clocks that jump: credentials are judged by when the link was last up, and an outage is no shorter than
//! it was.

use super::super::clock::Clock;
use super::super::find::Finding;
use super::super::{Service, ServiceOptions};
use super::model::cloud;
use crate::decide::Reader;
use crate::identity::{Caller, Claims, TokenHash};
use crate::request::ApiRequest;
use crate::store::{MemoryStore, Store};
use crate::upstream::LinkState;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A daemon that has just begun, and whose link is down; `kept` is what an earlier life has kept, `wall` the system's clock.
fn service(kept: &str, wall: fn() -> SystemTime) -> Service {
    let store = Arc::new(MemoryStore::new());
    store.set_note("last-up", kept.as_bytes()).expect("kept");
    let options = ServiceOptions {
        timeout: Duration::from_secs(3),
        slow_timeout: Duration::from_secs(60),
        offline_grace: Duration::from_secs(3600),
        review_ttl: Duration::ZERO,
        max_object_size: 1024,
        bounds: crate::store::Bounds::NONE,
        kubernetes_service: None,
        heal_endpoints: false,
    };
    let clock = Arc::new(Clock::with(wall, Some(at(UP))));
    let service = Service::new(options, cloud(), store, clock);
    let begun = Instant::now();
    while !matches!(service.upstream.link().state(), LinkState::Down { .. }) {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody is there");
        std::thread::sleep(Duration::from_millis(10));
    }
    service
}

/// How a token is judged that was accepted once and expires then.
fn judged(service: &Service, expires: u64) -> Reader {
    let token = format!("expires-at-{expires}");
    let claims = Claims { issuer: "i".into(), subject: "s".into(), expires: Some(at(expires)) };
    service.accept(TokenHash::of(&token), Some(&claims));
    let headers = [("authorization".to_owned(), format!("Bearer {token}").into_bytes())];
    let caller = Caller::new(None, |_| false, &headers);
    let request = ApiRequest::new("GET", "/api/v1/pods", &|_| None).expect("understood");
    let asked = service.asked_by_proxy(request, caller);
    service.situation(&asked, &Finding::nothing()).reader
}

const UP: u64 = 1_800_000_000;

#[test]
fn credentials_are_judged_by_when_the_link_was_last_up() {
    for wall in [|| at(7), || at(UP + 1800)] {
        let service = service("1800000000 0", wall);
        assert_eq!(service.verification_time(), at(UP));
        assert_eq!(judged(&service, UP + 10), Reader::Known, "it was good when the cable was cut");
        assert_eq!(judged(&service, UP - 600), Reader::Expired);
    }
}

#[test]
fn recorded_data_is_served_for_no_longer_than_the_grace_whatever_the_clock_says() {
    for (kept, wall, reader) in [
        ("1800000000 3500", (|| at(7)) as fn() -> SystemTime, Reader::Known),
        ("1800000000 3700", || at(7), Reader::GraceOver),
        ("1800000000 0", || at(UP + 3500), Reader::Known),
        ("1800000000 0", || at(UP + 3700), Reader::GraceOver),
        // As versions before kept it.
        ("1800000000", || at(7), Reader::Known),
    ] {
        assert_eq!(judged(&service(kept, wall), UP + 10), reader, "{kept}");
    }
}
