//! A list on its way into the record: split while it streams, committed when the upstream ended it whole; a page of a
//! list joins those before it ([`super::pages`]).

use super::keep::{Kept, NotKept};
use super::pages::Pages;
use super::{Asked, Service};
use crate::record::{Encoding, Item, ListReader, Malformed, TypeMeta};
use crate::store::ObjectRef;

/// One list under way.
pub(super) struct List {
    reader: ListReader,
    into: Into,
}

/// Where its objects go.
enum Into {
    /// Not known before the list has said what it is.
    Unknown,
    /// Here, with those of the pages before.
    Pages(Box<Pages>),
    /// Nowhere: nobody knows the pages before.
    Nowhere,
}

impl List {
    pub(super) fn new(encoding: Encoding, max_object: usize) -> List {
        List { reader: ListReader::new(encoding, max_object), into: Into::Unknown }
    }

    /// Takes the next bytes. The generation begins when the list has said what it is: its kind is part of the key.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        service: &Service,
        asked: &Asked,
        answer: &Kept,
    ) -> Result<(), NotKept> {
        let mut failed = None;
        let into = &mut self.into;
        self.reader.feed(bytes, &mut |list_type: &TypeMeta, item: Item<'_>| {
            if failed.is_none() {
                failed = put(into, list_type, &item, service, asked, answer).err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The body has ended whole: the list becomes the collection, if that was all of it.
    pub(super) fn finish(self, service: &Service, asked: &Asked, answer: &Kept) -> Result<(), NotKept> {
        let envelope = self.reader.finish()?;
        let mut pages = match self.into {
            Into::Pages(pages) => *pages,
            Into::Unknown => match begin(envelope.type_meta(), service, asked, answer)? {
                Some(pages) => pages,
                None => return Ok(()),
            },
            Into::Nowhere => return Ok(()),
        };
        // Its kind may have come after its items: the key must be what it would have been.
        if answer.key(service, asked, Some(envelope.type_meta()))? != pages.key {
            return Err(Malformed::NotAList.into());
        }
        let version = envelope.resource_version();
        if *pages.version.get_or_insert_with(|| version.to_owned()) != version {
            log::info!("{}: its pages are of different versions, and are not recorded", asked.shown_target());
            return Ok(());
        }
        if let Some(next) = envelope.continue_token() {
            service.pages.put(next, pages);
            return Ok(());
        }
        let version = version.parse().ok();
        if version < pages.back_below {
            pages.generation.supersede();
        }
        pages.generation.commit(&envelope.encode(), version, true)?;
        service.fill_holes(&pages.key);
        Ok(())
    }
}

/// The first page's generation, or the one that this page goes on with; `None`: a page that follows upon nothing known.
fn begin(list_type: &TypeMeta, service: &Service, asked: &Asked, answer: &Kept) -> Result<Option<Pages>, NotKept> {
    let key = answer.key(service, asked, Some(list_type))?;
    if let Some(token) = asked.request.query.get("continue").filter(|c| !c.is_empty()) {
        return Ok(service.pages.take(&key, token));
    }
    let generation = service.store.begin_generation(&key)?;
    let back_below = asked.back_below(&key);
    Ok(Some(Pages { key, generation, version: None, back_below }))
}

fn put(
    into: &mut Into,
    list_type: &TypeMeta,
    item: &Item<'_>,
    service: &Service,
    asked: &Asked,
    answer: &Kept,
) -> Result<(), NotKept> {
    if matches!(into, Into::Unknown) {
        *into = begin(list_type, service, asked, answer)?.map_or(Into::Nowhere, |pages| Into::Pages(Box::new(pages)));
    }
    if let Into::Pages(pages) = into {
        service.meet_object(&pages.key.path, &item.facts.name, &item.facts.uid);
        pages.generation.put(&reference(item), item.bytes)?;
    }
    Ok(())
}

/// An object as the store knows it.
pub(super) fn reference(item: &Item<'_>) -> ObjectRef {
    let facts = item.facts;
    let key =
        if facts.namespace.is_empty() { facts.name.clone() } else { format!("{}/{}", facts.namespace, facts.name) };
    ObjectRef { key, uid: facts.uid.clone(), version: facts.resource_version.parse().ok(), flags: item.flags }
}
