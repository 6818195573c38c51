//! `bulkhead-oci`: runc's command line over [`crate::lifecycle`].

mod log;

pub use log::{Format, Level, Log};
