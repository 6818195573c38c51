//! The controllers net_cls and net_prio, of version 1 only.

use super::setting::{Missing, Setting, Settings};
use crate::{error::Error, spec::Network};

pub(super) fn settings(network: &Network, all: &mut Settings) -> Result<(), Error> {
    if let Some(class) = network.class_id.filter(|class| *class != 0) {
        all.limit("net_cls.classid", class);
    }
    for one in &network.priorities {
        if one.name.is_empty() || one.name.contains(char::is_whitespace) {
            return Err(Error::invalid(
                "linux.resources.network.priorities.name",
                &one.name,
                "a network interface is wanted",
            ));
        }
        all.list.push(Setting {
            controller: "net_prio",
            file: "net_prio.ifpriomap".into(),
            value: format!("{} {}", one.name, one.priority),
            missing: Missing::Refuse,
        });
    }
    Ok(())
}
