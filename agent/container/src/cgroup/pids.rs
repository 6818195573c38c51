//! The pids controller, the same in both versions.

use bulkhead_protocol::stats;

use super::{directory::Directory, setting::Settings};
use crate::spec::Pids;

pub(super) fn settings(pids: Pids, all: &mut Settings) {
    match pids.limit {
        // As runc has it: nothing is said.
        0 => {}
        limit if limit < 0 => all.limit("pids.max", "max"),
        limit => all.limit("pids.max", limit),
    }
}

pub(super) fn stats(dir: &Directory) -> stats::Pids {
    stats::Pids {
        current: dir.number("pids.current").unwrap_or(0),
        limit: dir.number("pids.max").unwrap_or(0),
    }
}
