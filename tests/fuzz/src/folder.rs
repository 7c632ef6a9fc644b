//! A folder for what a target reads as files; the process works in it, so that relative paths end there.

use lite_apiserver::config::{self, ConfigError};
use std::ffi::OsString;
use std::sync::OnceLock;

/// A kubeconfig that is good.
pub const GOOD: &str = "{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}], clusters: [{name: k, \
                        cluster: {server: 'https://k', insecure-skip-tls-verify: true}}], users: [{name: u, user: {token: t}}]}";

/// Writes the file and reads the configuration that names it by `flag`; `Err`: why it is refused.
pub fn load(flag: &str, bytes: &[u8]) -> Result<(), ConfigError> {
    static FOLDER: OnceLock<()> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("lite-apiserver-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::env::set_current_dir(&folder).expect("the folder");
        std::fs::write("good", GOOD).expect("written");
        // Makes the key pair that a seed of `pairs` names.
        load_with(&["--kubeconfig=good"]).expect("a good kubeconfig");
    });
    std::fs::write("input", bytes).expect("written");
    match flag {
        "--kubeconfig" => load_with(&["--kubeconfig=input"]),
        _ => load_with(&["--kubeconfig=good", &format!("{flag}=input")]),
    }
}

fn load_with(flags: &[&str]) -> Result<(), ConfigError> {
    let arguments = flags.iter().chain(&["--data-dir=data"]).map(OsString::from);
    config::load(arguments, &|_| None).map(drop)
}
