//! New certificates for old, without a restart: what [`Watch`] finds on disk goes to the front and to the upstream.

use crate::admin::Exposition;
use crate::config::{Config, Watch};
use crate::front::Tls;
use crate::serve::Service;
use crate::upstream::Upstream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the files are looked at.
const PAUSE: Duration = Duration::from_secs(10);

/// The certificates, from the disk to where they are used.
pub(super) struct Rotation {
    watch: Mutex<Watch>,
    tls: Arc<Tls>,
    upstream: Arc<Upstream>,
    service: Arc<Service>,
}

impl Rotation {
    pub(super) fn new(config: &Config, tls: Arc<Tls>, upstream: Arc<Upstream>, service: Arc<Service>) -> Rotation {
        let watch = Mutex::new(Watch::new(config.certificate_files.clone(), config.certificates.clone()));
        Rotation { watch, tls, upstream, service }
    }

    /// Looks at the files if that is due; `next` is when it is.
    pub(super) fn look_when_due(&self, next: &mut Instant) {
        if Instant::now() >= *next {
            *next = Instant::now() + PAUSE;
            self.look(false);
        }
    }

    /// Looks at the files, and reads them, changed or not, if `anyway`.
    pub(super) fn look(&self, anyway: bool) {
        let mut watch = self.watch();
        let Some(certificates) = watch.look(anyway) else { return };
        let replaced = self.upstream.replace(certificates).map_err(|e| e.to_string());
        if let Err(e) = replaced.and_then(|()| self.tls.replace(certificates).map_err(|e| e.to_string())) {
            log::error!("certificates: what was read cannot be used: {e}");
        }
        if let Some(roots) = &certificates.upstream_roots {
            self.service.trust(&roots.fingerprints());
        }
    }

    pub(super) fn expose(&self, page: &mut Exposition) {
        let watch = self.watch();
        page.family(
            "lite_apiserver_certificate_expiry_seconds",
            "gauge",
            "When the validity of a certificate in use ends, in seconds since 1970.",
        );
        for (purpose, name, expires) in watch.certificates().expiries() {
            let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
            page.sample(&[("use", purpose), ("name", &name)], seconds);
        }
        let tally = watch.tally();
        for (name, kind, help, value) in [
            (
                "lite_apiserver_certificate_reloads_total",
                "counter",
                "Times that changed certificates were taken in.",
                tally.reloads,
            ),
            (
                "lite_apiserver_certificate_reload_failures_total",
                "counter",
                "Times that a certificate, key or list of them was found faulty.",
                tally.failures,
            ),
            (
                "lite_apiserver_certificate_files_failing",
                "gauge",
                "Files that are faulty now; what was read of them before is in use.",
                tally.failing as u64,
            ),
        ] {
            page.single(name, kind, help, value);
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
