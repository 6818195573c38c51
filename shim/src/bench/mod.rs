//! `bulkhead bench`: what isolation costs, and proof that it is there. Each bench makes a [`report::Report`], which is shown on a terminal, kept
//! as JSON, and drawn as an HTML page.

pub mod host;
pub mod html;
pub mod json;
pub mod report;
#[cfg(test)]
mod sample;
pub mod stats;
pub mod text;
