//! Bytes that have come and are not used yet.

use super::unknown::MAGIC;
use super::wire::Header;
use crate::record::Malformed;

/// Gathers bytes until what is waited for is there. Holds no more than the piece that came last, and what is waited for.
#[derive(Debug, Default)]
pub(super) struct Inflow {
    pending: Vec<u8>,
    at: usize,
    /// How many unused bytes are waited for, where that is known: exactly so much room is made.
    wanted: usize,
    /// How many bytes that have not come yet are of no interest.
    skipping: u64,
}

impl Inflow {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let skipped = usize::try_from(self.skipping).unwrap_or(usize::MAX).min(bytes.len());
        self.skipping -= skipped as u64;
        self.pending.drain(..std::mem::take(&mut self.at));
        let bytes = &bytes[skipped..];
        let room = std::mem::take(&mut self.wanted).saturating_sub(self.pending.len());
        self.pending.reserve_exact(room.max(bytes.len()));
        self.pending.extend_from_slice(bytes);
    }

    /// What has come and is not used.
    pub(super) fn rest(&self) -> &[u8] {
        &self.pending[self.at..]
    }

    /// Whether all that came is used, and nothing is to be skipped any more.
    pub(super) fn is_drained(&self) -> bool {
        self.rest().is_empty() && self.skipping == 0
    }

    /// Uses `length` bytes, which the caller has found not to be too many to hold; `None`: they have not all come.
    pub(super) fn take(&mut self, length: u64) -> Option<&[u8]> {
        let length = usize::try_from(length).ok()?;
        if length > self.rest().len() {
            self.wanted = length;
            return None;
        }
        let taken = &self.pending[self.at..self.at + length];
        self.at += length;
        Some(taken)
    }

    /// Uses `length` bytes, whether they have come or not.
    pub(super) fn skip(&mut self, length: u64) {
        let here = usize::try_from(length).unwrap_or(usize::MAX).min(self.rest().len());
        self.at += here;
        self.skipping = length - here as u64;
    }

    /// Uses the magic; `None`: it has not all come.
    ///
    /// # Errors
    /// Something else has come.
    pub(super) fn magic(&mut self) -> Result<Option<()>, Malformed> {
        let rest = self.rest();
        if !MAGIC.starts_with(&rest[..rest.len().min(MAGIC.len())]) {
            return Err(Malformed::Syntax);
        }
        Ok(self.take(MAGIC.len() as u64).map(|_| ()))
    }

    /// The header of the next field, which is not used by this; `None`: it has not all come. `left`: how many bytes the
    /// message has that the field belongs to, where that is known.
    ///
    /// # Errors
    /// No field begins so, or it is longer than the message.
    pub(super) fn header(&self, left: Option<u64>) -> Result<Option<Header>, Malformed> {
        let rest = self.rest();
        let limit = left.and_then(|l| usize::try_from(l).ok()).unwrap_or(usize::MAX);
        let within = &rest[..rest.len().min(limit)];
        match Header::read(within)? {
            Some(header) if left.is_some_and(|left| header.total().map_or(true, |total| total > left)) => {
                Err(Malformed::Syntax)
            }
            Some(header) => header.total().map(|_| Some(header)),
            None if within.len() == limit => Err(Malformed::Syntax),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_held_than_the_largest_object_and_a_piece() {
        let (mut inflow, mut taken) = (Inflow::default(), 0);
        let lengths = [100, 70_000, 3000, 3000, 70_000, 10].repeat(50);
        let all = vec![7; lengths.iter().sum::<usize>()];
        let mut next = lengths.iter();
        let mut length = next.next();
        for piece in all.chunks(1000) {
            inflow.push(piece);
            while let Some(l) = length
                && let Some(bytes) = inflow.take(*l as u64)
            {
                assert_eq!(bytes.len(), *l);
                taken += *l;
                length = next.next();
            }
            assert!(inflow.pending.capacity() <= 71_000, "{}", inflow.pending.capacity());
        }
        assert_eq!((taken, inflow.is_drained()), (all.len(), true));
    }

    #[test]
    fn room_is_made_once() {
        let mut inflow = Inflow::default();
        inflow.push(b"ab");
        assert_eq!(inflow.take(10_000), None);
        inflow.push(b"c");
        assert_eq!(inflow.pending.capacity(), 10_000);
    }

    #[test]
    fn what_is_skipped_is_never_held() {
        let mut inflow = Inflow::default();
        inflow.push(b"ab");
        inflow.skip(10);
        assert!(!inflow.is_drained());
        inflow.push(b"cdefg");
        assert_eq!(inflow.rest(), b"");
        inflow.push(b"hijkl");
        assert_eq!(inflow.rest(), b"kl");
    }
}
