//! A record of any engine, opened to be looked into or to be changed, and read to its last byte.

use super::command::Engine;
use crate::failed::{Failed, failed};
#[cfg(any(feature = "redb", feature = "fjall"))]
use crate::store::DatabaseOptions;
use crate::store::{self, Checked, Condition, FileOptions, FileStore, Kind, Store, StoreError, ViewInfo};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Fails if there is no record of this engine here, or if it may not be read.
pub(super) fn is_there(engine: Engine, root: &Path) -> io::Result<()> {
    match engine {
        Engine::File => std::fs::read_dir(root).map(drop),
        Engine::Redb => std::fs::File::open(root).map(drop),
        // Where it keeps its database: what it does not find, it makes.
        Engine::Fjall => std::fs::read_dir(root.join("db")).map(drop),
    }
}

/// Opens a record to look at it.
pub(super) fn look(engine: Engine, root: &Path) -> Result<Box<dyn Store>, Failed> {
    Ok(match engine {
        Engine::File => Box::new(FileStore::look(root)?),
        #[cfg(feature = "redb")]
        Engine::Redb => Box::new(store::look_into_redb(root)?),
        #[cfg(feature = "fjall")]
        Engine::Fjall => Box::new(store::look_into_fjall(root)?),
        #[cfg(not(all(feature = "redb", feature = "fjall")))]
        _ => return Err(built_without(engine)),
    })
}

/// Opens a record as the daemon does.
pub(super) fn to_change(engine: Engine, root: &Path) -> Result<Box<dyn Store>, Failed> {
    let flush_interval = Duration::from_secs(1);
    #[cfg(any(feature = "redb", feature = "fjall"))]
    let options = || DatabaseOptions { path: root.to_owned(), flush_interval };
    Ok(match engine {
        Engine::File => Box::new(FileStore::open(FileOptions { root: root.to_owned(), flush_interval })?),
        #[cfg(feature = "redb")]
        Engine::Redb => Box::new(store::open_redb(&options())?),
        #[cfg(feature = "fjall")]
        Engine::Fjall => Box::new(store::open_fjall(&options())?),
        #[cfg(not(all(feature = "redb", feature = "fjall")))]
        _ => return Err(built_without(engine)),
    })
}

#[cfg(not(all(feature = "redb", feature = "fjall")))]
fn built_without(engine: Engine) -> Failed {
    let engine = if engine == Engine::Redb { "redb" } else { "fjall" };
    failed(78, format!("this program was built without {engine}; build it with --features {engine}"))
}

/// Reads every byte of a record: of a database each view, in the place of files.
pub(super) fn verify(engine: Engine, root: &Path) -> Result<Vec<Checked>, Failed> {
    if engine == Engine::File {
        return store::verify(root).map_err(|e| failed(super::of_io(&e), format!("{}: {e}", root.display())));
    }
    let store = look(engine, root)?;
    // Views that could not even be named have been left out when it was opened.
    let unnamed = (0..store.stats().damaged).map(|_| (None, 0, Condition::Damaged("a view that cannot be told")));
    let views = store.all();
    let named = views.into_iter().map(|info| {
        let condition = match read_whole(&*store, &info) {
            Ok(()) => Condition::Whole,
            Err(_) => Condition::Damaged("it cannot be read back"),
        };
        (Some(info.key), info.bytes, condition)
    });
    let checked = |(key, bytes, condition)| Checked { path: root.to_owned(), key, bytes, condition };
    Ok(unnamed.chain(named).map(checked).collect())
}

fn read_whole(store: &dyn Store, info: &ViewInfo) -> Result<(), StoreError> {
    let damaged = || StoreError::Damaged { path: info.key.path.clone().into() };
    let read = match info.kind {
        Kind::Document => {
            let mut document = store.document(&info.key)?.ok_or_else(damaged)?;
            io::copy(&mut document.body, &mut io::sink()).map(drop)
        }
        Kind::Collection => store.collection(&info.key)?.ok_or_else(damaged)?.each(&mut |_, _| Ok(())),
    };
    read.map_err(|_| damaged())
}
