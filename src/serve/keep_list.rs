//! A list on its way into the record: split while it streams, committed when the upstream ended it whole.

use super::keep::{Kept, NotKept};
use super::{Asked, Service};
use crate::record::{Encoding, Item, ListReader, Malformed, TypeMeta};
use crate::store::{Generation, ObjectRef, ViewKey};

/// One list under way.
pub(super) struct List {
    reader: ListReader,
    generation: Option<(ViewKey, Box<dyn Generation>)>,
}

impl List {
    pub(super) fn new(encoding: Encoding, max_object: usize) -> List {
        List { reader: ListReader::new(encoding, max_object), generation: None }
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
        let generation = &mut self.generation;
        self.reader.feed(bytes, &mut |list_type: &TypeMeta, item: Item<'_>| {
            if failed.is_none() {
                failed = put(generation, list_type, &item, service, asked, answer).err();
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The body has ended whole: the list becomes the collection, if it is one, and all of it.
    pub(super) fn finish(self, service: &Service, asked: &Asked, answer: &Kept) -> Result<(), NotKept> {
        let envelope = self.reader.finish()?;
        if envelope.continue_token().is_some() || asked.request.query.get("continue").is_some_and(|c| !c.is_empty()) {
            // One page of several is not the collection.
            return Ok(());
        }
        let (key, mut generation) = match self.generation {
            Some(begun) => begun,
            None => begin(envelope.type_meta(), service, asked, answer)?,
        };
        // Its kind may have come after its items: the key must be what it would have been.
        if answer.key(service, asked, Some(envelope.type_meta()))? != key {
            return Err(Malformed::NotAList.into());
        }
        if asked.request.query.resource_version().is_none() {
            generation.supersede();
        }
        let version = envelope.resource_version().parse().ok();
        generation.commit(&envelope.encode(), version, true)?;
        Ok(())
    }
}

fn begin(
    list_type: &TypeMeta,
    service: &Service,
    asked: &Asked,
    answer: &Kept,
) -> Result<(ViewKey, Box<dyn Generation>), NotKept> {
    let key = answer.key(service, asked, Some(list_type))?;
    let generation = service.store.begin_generation(&key)?;
    Ok((key, generation))
}

fn put(
    generation: &mut Option<(ViewKey, Box<dyn Generation>)>,
    list_type: &TypeMeta,
    item: &Item<'_>,
    service: &Service,
    asked: &Asked,
    answer: &Kept,
) -> Result<(), NotKept> {
    let (_, generation) = match generation {
        Some(begun) => begun,
        None => generation.insert(begin(list_type, service, asked, answer)?),
    };
    Ok(generation.put(&reference(item), item.bytes)?)
}

/// An object as the store knows it.
pub(super) fn reference(item: &Item<'_>) -> ObjectRef {
    let facts = item.facts;
    let key =
        if facts.namespace.is_empty() { facts.name.clone() } else { format!("{}/{}", facts.namespace, facts.name) };
    ObjectRef { key, uid: facts.uid.clone(), version: facts.resource_version.parse().ok(), flags: item.flags }
}
