//! What was typed becomes what it means. That bad input ends the process with its code and one line is seen on the real
//! binary (`tests/proxy/process.rs`).

use super::*;
use crate::config::Exit;
use crate::config::tests::given;

#[test]
fn several_addresses_are_listened_on() {
    let addresses = listen(&given("--address 127.0.0.1,::1 --address 10.0.0.1 --port 7")).expect("addresses");
    assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:7", "[::1]:7", "10.0.0.1:7"]);
    assert!(listen(&given("--address localhost")).is_err());
}

#[test]
fn spans_are_seconds_where_they_have_no_unit_as_the_original_has_them() {
    let read = limits(&given("--timeout 5 --slow-timeout 1m --max-object-size 1Mi")).expect("limits");
    assert_eq!((read.timeout.as_secs(), read.slow_timeout.as_secs(), read.max_object_size), (5, 60, 1 << 20));
    for line in ["--timeout 0", "--timeout x", "--max-connections 0", "--max-object-size -1", "--idle-timeout 0s"] {
        assert!(limits(&given(line)).is_err(), "{line}");
    }
}

#[test]
fn the_log_level_is_the_flags_then_the_environments() {
    use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
    let environment = |level: &'static str| move |name: &str| (name == "RUST_LOG").then(|| level.to_owned());
    for (line, set, level) in [
        ("", "", Info),
        ("", "warn", Warn),
        ("", "hyper=debug", Info),
        ("--log-level error", "warn", Error),
        ("-v", "warn", Debug),
        ("-vv --log-level error", "", Trace),
    ] {
        assert_eq!(log_level(&given(line), &environment(set)), Ok(level), "{line} {set}");
    }
    assert!(log_level(&given("--log-level loud"), &environment("")).is_err());
}

#[test]
fn the_record_is_where_it_is_said_to_be() {
    let kept = |line: &str, data: Option<&str>| store(&given(line), data.map(Path::new));
    let file = |path: &str| Ok(StoreConfig::File(path.into()));
    assert_eq!(kept("", None), file("/data/lite-apiserver/cache"));
    assert_eq!(kept("", Some("/d")), file("/d/cache"));
    assert_eq!(kept("--file-cache-path /c", Some("/d")), file("/c"));
    assert_eq!(kept("--cache-type memory", None), Ok(StoreConfig::Memory));
    for name in ["redb", "bolt"] {
        let kept = |more: &str, data| kept(&format!("--cache-type {name}{more}"), data);
        #[cfg(feature = "redb")]
        for (more, data, path) in [
            ("", None, "/data/lite-apiserver/bolt/superedge.db"),
            ("", Some("/d"), "/d/cache.redb"),
            (" --bolt-cache-file /b", Some("/d"), "/b"),
        ] {
            assert_eq!(kept(more, data), Ok(StoreConfig::Redb(path.into())));
        }
        #[cfg(not(feature = "redb"))]
        assert!(kept("", None).is_err_and(|e| e.exit == Exit::Config && e.message.contains("built without redb")));
    }
    for name in ["fjall", "badger"] {
        let kept = |more: &str, data| kept(&format!("--cache-type {name}{more}"), data);
        #[cfg(feature = "fjall")]
        for (more, data, path) in [
            ("", None, "/data/lite-apiserver/badger"),
            ("", Some("/d"), "/d/cache.fjall"),
            (" --badger-cache-path /b", Some("/d"), "/b"),
        ] {
            assert_eq!(kept(more, data), Ok(StoreConfig::Fjall(path.into())));
        }
        #[cfg(not(feature = "fjall"))]
        assert!(kept("", None).is_err_and(|e| e.exit == Exit::Config && e.message.contains("built without fjall")));
    }
    assert!(kept("--cache-type pebble", None).is_err_and(|e| e.exit == Exit::Usage && e.message.contains("fjall")));
    assert!(refuse_what_comes_later(&given("--url-mux-cache /api")).is_err());
    assert!(refuse_what_comes_later(&given("--network-interface=")).is_ok());
}
