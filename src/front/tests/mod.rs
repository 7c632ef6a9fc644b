//! The front through real sockets, against a rustls client that says exactly what a test tells it to.

mod answers;
mod bounds;
mod identity;
mod life;
mod requests;
mod support;
