//! `--tls-config-file`: read, or refused with one line that names it.
#![no_main]

mod folder;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(e) = folder::load("--tls-config-file", data) {
        assert!(!e.message.is_empty() && !e.message.contains('\n'), "{:?}", e.message);
    }
});
