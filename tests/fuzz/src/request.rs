//! Requests: a target and an Accept that any client may send are understood or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lite_apiserver::request::ApiRequest;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (target, accept) = text.split_once('\n').unwrap_or((text, ""));
    let header = |name: &str| (name == "accept" && !accept.is_empty()).then(|| accept.to_owned());
    // The front hands on nothing else.
    if !target.starts_with('/') {
        return;
    }
    let Ok(request) = ApiRequest::new("GET", target, &header) else { return };
    let _ = request.query.selecting();
    let _ = request.accept.choose(&["application/json", "application/vnd.kubernetes.protobuf"]);
    let path = request.target.view_path();
    assert!(path.starts_with('/'), "{path:?}");
});
