//! `bulkhead bench`: what isolation costs, and proof that it is there. Each bench makes a [`report::Report`], which is shown on a terminal, kept
//! as JSON, and drawn as an HTML page.

pub mod compare;
pub mod density;
mod error;
pub mod host;
pub mod html;
pub mod idle;
pub mod io;
pub mod isolation;
pub mod json;
pub mod life;
pub mod memory;
pub mod net;
mod orders;
pub mod process;
pub mod progress;
pub mod report;
pub mod runtime;
#[cfg(test)]
mod sample;
pub mod stage;
pub mod stamp;
pub mod startup;
pub mod stats;
pub mod talk;
pub mod text;
pub mod timeline;
pub mod work;

pub use error::BenchError;
