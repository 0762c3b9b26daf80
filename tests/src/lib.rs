//! The test bed: frames, small networks and clusters with tenants, and probes for them.
//!
//! The test bed uses the agent only from outside: its command line, its output, its metrics. Expectations are written
//! here a second time. They are never computed by the code under test.

pub mod agent;
pub mod api;
pub mod capture;
pub mod config;
pub mod engine;
pub mod foreign;
pub mod frames;
pub mod host;
pub mod kube;
pub mod matrix;
pub mod measure;
pub mod metrics;
pub mod netns;
pub mod page;
pub mod probe;
pub mod raw;
pub mod scope;
pub mod serve;
pub mod stream;
pub mod tier;
pub mod worker;
pub mod world;
