//! lite-apiserver: the best small thing between a Kubernetes edge node and its far-away control plane.

pub mod admin;
pub mod config;
pub mod decide;
pub mod front;
pub mod identity;
pub mod record;
pub mod request;
pub mod serve;
pub mod store;
pub mod upstream;
