//! Labels of the host's security modules: the guest's kernel has none of them, and the machine is the wall.

use serde_json::{Map, Value};

use super::{RewriteError, object};

pub(super) fn drop(
    spec: &mut Map<String, Value>,
    notes: &mut Vec<String>,
) -> Result<(), RewriteError> {
    for (parent, key) in [
        ("process", "apparmorProfile"),
        ("process", "selinuxLabel"),
        ("linux", "mountLabel"),
        ("linux", "intelRdt"),
    ] {
        let Some(object) = object(spec, parent, parent)? else { continue };
        let Some(value) = object.remove(key) else { continue };
        if !matches!(&value, Value::Null) && value.as_str() != Some("") {
            notes.push(format!(
                "{parent}.{key}: {value} is of the host and not applied in the guest"
            ));
        }
    }
    Ok(())
}
