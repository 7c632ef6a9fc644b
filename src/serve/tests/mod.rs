//! Tests of the service as a whole, without sockets.

mod model;
mod time;
mod upstream_model;
