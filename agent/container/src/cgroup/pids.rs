//! The pids controller.

use super::setting::Setting;
use crate::spec::Pids;

pub(super) fn settings(pids: Pids, all: &mut Vec<Setting>) {
    all.push(if pids.limit > 0 {
        Setting::new("pids.max", pids.limit)
    } else {
        Setting::new("pids.max", "max")
    });
}
