//! The rdma controller, the same in both versions.

use std::collections::BTreeMap;

use super::setting::Settings;
use crate::{error::Error, spec::Rdma};

pub(super) fn settings(limits: &BTreeMap<String, Rdma>, all: &mut Settings) -> Result<(), Error> {
    for (device, limit) in limits {
        if device.is_empty() || device.contains(char::is_whitespace) {
            let why = "the name of an RDMA device is wanted";
            return Err(Error::invalid("linux.resources.rdma", device, why));
        }
        let mut line = device.clone();
        for (key, value) in [("hca_handle", limit.hca_handles), ("hca_object", limit.hca_objects)] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        if line.len() > device.len() {
            all.limit("rdma.max", line);
        }
    }
    Ok(())
}
