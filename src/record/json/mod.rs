//! JSON: bodies walked token by token, and written again from what was kept of them.

mod envelope;
mod event;
mod gathering;
mod list;
mod object;
mod token;

pub(super) use envelope::{Envelope, FORMAT, put_error};
pub(super) use event::WatchReader;
pub(super) use list::ListReader;
pub(super) use object::ObjectReader;
