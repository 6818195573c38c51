//! What a list of limits changes.

use serde_json::{Map, Value};

/// `linux.resources` without what says nothing: engines send all limits, and those that do not change as 0, empty or null.
#[must_use]
pub fn changes(resources: Value) -> Value {
    let Value::Object(parts) = resources else { return resources };
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let pruned = parts.into_iter().filter_map(|(name, part)| match part {
        Value::Object(part) => {
            let part: Map<String, Value> =
                part.into_iter().filter(|(_, value)| says(value)).collect();
            (!part.is_empty()).then_some((name, Value::Object(part)))
        }
        other => says(&other).then_some((name, other)),
    });
    Value::Object(pruned.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zeros_say_nothing() {
        let sent = json!({"memory": {"limit": 5, "swap": 0, "reservation": null}, "cpu": {"cpus": "", "shares": 0},
                          "pids": {"limit": -1}, "blockIO": null});
        assert_eq!(changes(sent), json!({"memory": {"limit": 5}, "pids": {"limit": -1}}));
    }
}
