//! A report as one HTML page that needs nothing else: no script, no font, no picture from anywhere. It is readable in light and in dark.

mod axis;
mod bars;
mod curves;
mod page;
mod svg;

use std::path::Path;

pub use page::page;

use super::{
    json::{FileError, replace},
    report::Report,
};

/// Writes a report's page as a file that replaces another.
///
/// # Errors
/// [`FileError::Io`].
pub fn save(report: &Report, path: &Path) -> Result<(), FileError> {
    replace(path, page(report).as_bytes())
}
