//! The two buffers of one upstream connection, there only while bytes are in them. A freed one goes to a small common
//! stock, so that the hot path neither asks the allocator nor fills memory with zeros.

use std::sync::{Mutex, PoisonError};

use ureq::unversioned::transport::Buffers;

use super::attempt;

/// One TLS record's worth of plaintext: a body buffer that is sent becomes exactly one record.
pub(super) const SIZE: usize = 16 * 1024;
/// The input grows up to this while a response head does not fit; above the head's limit, so that ureq names that.
const LARGEST_INPUT: usize = 2 * super::MAX_RESPONSE_HEAD;
/// At most this many buffers lie idle: 128 KiB.
const STOCK: usize = 8;

static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn take() -> Vec<u8> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    spare.unwrap_or_else(|| vec![0; SIZE])
}

fn give(buffer: Vec<u8>) {
    if buffer.len() != SIZE {
        return;
    }
    let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < STOCK {
        spare.push(buffer);
    }
}

/// Input (`start..end` of it is unread) and output, each empty or at least [`SIZE`] long.
#[derive(Default)]
pub(super) struct TidalBuffers {
    input: Vec<u8>,
    start: usize,
    end: usize,
    output: Vec<u8>,
    progress: bool,
}

impl TidalBuffers {
    /// Frees what holds nothing: called when a wait begins, which may last for hours (an idle watch).
    pub(super) fn release(&mut self) {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            give(std::mem::take(&mut self.input));
        }
        give(std::mem::take(&mut self.output));
    }

    /// The first `amount` bytes of what was written to the output.
    pub(super) fn written(&self, amount: usize) -> &[u8] {
        &self.output[..amount]
    }

    /// Room behind the unread input. Makes some where there is little: by moving what is unread to the front, or by growing.
    fn room(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = take();
        }
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.input.len() - self.end < self.input.len() / 2 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.input.len() && self.input.len() < LARGEST_INPUT {
            self.input.resize(self.input.len() * 2, 0);
        }
        &mut self.input[self.end..]
    }

    /// What is unread can be used at once, though nobody has taken any of it yet.
    pub(super) fn read_again(&mut self) {
        self.progress = true;
    }

    fn ensure_output(&mut self) {
        if self.output.is_empty() {
            self.output = take();
        }
        let wanted = attempt::longest_line();
        if self.output.len() < wanted {
            self.output.resize(wanted, 0);
        }
    }
}

impl Drop for TidalBuffers {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.input));
        give(std::mem::take(&mut self.output));
    }
}

impl Buffers for TidalBuffers {
    fn output(&mut self) -> &mut [u8] {
        self.ensure_output();
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.room()
    }

    fn input_appended(&mut self, amount: usize) {
        self.end += amount;
        debug_assert!(self.end <= self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.progress = amount > 0;
        self.start += amount;
        debug_assert!(self.start <= self.end);
    }

    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.ensure_output();
        self.room();
        (&mut self.input[self.end..], &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.start < self.end && self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(buffers: &mut TidalBuffers, bytes: &[u8]) {
        let room = buffers.input_append_buf();
        room[..bytes.len()].copy_from_slice(bytes);
        buffers.input_appended(bytes.len());
    }

    #[test]
    fn nothing_is_held_while_nothing_is_unread() {
        let mut buffers = TidalBuffers::default();
        append(&mut buffers, b"abc");
        assert_eq!(buffers.output().len(), SIZE);
        buffers.release();
        assert_eq!((buffers.input(), buffers.output.capacity()), (&b"abc"[..], 0));
        buffers.input_consume(3);
        buffers.release();
        assert_eq!((buffers.input(), buffers.input.capacity()), (&b""[..], 0));
    }

    #[test]
    fn unread_bytes_move_to_the_front_before_the_buffer_grows() {
        let mut buffers = TidalBuffers::default();
        append(&mut buffers, &[1; SIZE]);
        buffers.input_consume(SIZE - 3);
        append(&mut buffers, &[2; 4]);
        assert_eq!((buffers.input(), buffers.input.len()), (&[1, 1, 1, 2, 2, 2, 2][..], SIZE));
    }

    #[test]
    fn the_input_grows_past_the_largest_head_and_no_further() {
        let mut buffers = TidalBuffers::default();
        loop {
            let room = buffers.input_append_buf().len();
            if room == 0 {
                break;
            }
            buffers.input_appended(room);
        }
        assert_eq!(buffers.input().len(), LARGEST_INPUT);
    }

    #[test]
    fn input_counts_as_usable_only_after_progress() {
        let mut buffers = TidalBuffers::default();
        append(&mut buffers, b"ab");
        assert!(!buffers.can_use_input());
        buffers.input_consume(1);
        assert!(buffers.can_use_input());
        buffers.input_consume(0);
        assert!(!buffers.can_use_input());
    }
}
