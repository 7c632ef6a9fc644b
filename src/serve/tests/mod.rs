//! Tests of the service as a whole, without sockets.

mod model;
mod upstream_model;
