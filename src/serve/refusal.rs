//! What the upstream's no does to the record: what it refuses to show, the record shows no more. The refusal itself is
//! recorded only where something else that stays would still answer.

use super::find::{self, FORBIDDEN};
use super::tell::Told;
use super::{Asked, Service, fields};
use crate::record::Encoding;
use crate::store::{DocumentHead, StoreError, ViewKey};

impl Service {
    /// Drops what the caller's scope recorded of what is asked for: the upstream says that it may not read it, or that it
    /// is no more. Done before the client is answered, so that nothing that the client does keeps it from being done.
    pub(super) fn drop_view(&self, asked: &Asked) {
        // Not the scope that the caller had when it asked: by this very answer its token may have been accepted.
        let Some(scope) = asked.caller.scope(&self.ledger()) else { return };
        for key in find::refused(&*self.store, &asked.request, &scope) {
            if let Err(e) = self.store.remove(&key) {
                log::warn!("{}: what was recorded could not be dropped: {e}", key.path);
            }
        }
        let shared = asked.caller.shares_discovery();
        if find::is_held_elsewhere(&*self.store, &asked.request, &scope, shared)
            && let Err(e) = self.record_refusal(asked, scope)
        {
            log::error!("{}: that the cluster refuses it could not be recorded: {e}", asked.shown_target());
        }
    }

    fn record_refusal(&self, asked: &Asked, scope: String) -> Result<(), StoreError> {
        let message =
            format!("{} is forbidden: so the cluster said when it was last asked", asked.request.target.view_path());
        let told = Told { code: 403, reason: "Forbidden", message, cause: None };
        let (content_type, body) = told.status().encode(Some(Encoding::Json));
        let head = fields::to_keep(&[("content-type".to_owned(), content_type.as_bytes().to_vec())]);
        let head = DocumentHead { status: 403, head, ..DocumentHead::default() };
        let mut writer = self.store.begin_document(&refusal_key(asked, scope), head)?;
        writer.write(&body)?;
        writer.commit()
    }

    /// The upstream has answered what it may have refused before.
    pub(super) fn forget_refusal(&self, asked: &Asked) {
        let Some(scope) = asked.caller.scope(&self.ledger()) else { return };
        let key = refusal_key(asked, scope);
        if self.store.views(&key.scope, &key.path).iter().any(|view| view.key == key)
            && let Err(e) = self.store.remove(&key)
        {
            log::warn!("{}: an old refusal could not be dropped: {e}", key.path);
        }
    }
}

/// In the caller's own scope, that of a discovery document too: others may be permitted to read it.
fn refusal_key(asked: &Asked, scope: String) -> ViewKey {
    let (path, query) = (asked.request.target.view_path(), asked.request.query.selecting());
    ViewKey { scope, path, query, representation: FORBIDDEN.to_owned() }
}
