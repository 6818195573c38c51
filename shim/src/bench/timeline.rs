//! What a monitor has written of its container's start: `timeline.json` in the container's state directory.

use std::collections::BTreeMap;

use serde_json::Value;

/// The nonce of a template that a clone's guest holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The template.
    pub key: String,
    /// What the guest said.
    pub nonce: Option<String>,
}

/// Steps on the host's `CLOCK_MONOTONIC`.
#[derive(Debug, Default)]
pub struct Record {
    steps: BTreeMap<String, (u64, Option<u64>)>,
    /// The template of a clone; none: the guest was booted.
    pub template: Option<Seen>,
}

impl Record {
    /// Reads it. What is not understood is left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let steps = value.as_array().or_else(|| value.get("steps")?.as_array());
        let number = |step: &Value, key: &str| step.get(key).and_then(Value::as_u64);
        let steps = steps.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|step| {
            let name = step.get("step")?.as_str()?.to_owned();
            Some((name, (number(step, "at")?, number(step, "instructions"))))
        });
        let text = |name: &str| {
            let text = value.get("template")?.get(name)?.as_str()?;
            Some(text.to_owned())
        };
        let template = text("key").map(|key| Seen { key, nonce: text("nonce") });
        Self { steps: steps.collect(), template }
    }

    /// When a step was passed, in nanoseconds.
    #[must_use]
    pub fn at(&self, step: &str) -> Option<u64> {
        self.steps.get(step).map(|step| step.0)
    }

    /// The guest-kernel instructions by then, where KVM counts them.
    #[must_use]
    pub fn instructions(&self, step: &str) -> Option<u64> {
        self.steps.get(step)?.1.filter(|&count| count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_the_nonce_are_read() {
        let steps = r#"[{"step":"agent-ready","at":7,"instructions":null},{"step":"program-entry","at":9,"instructions":5},3]"#;
        let boot = Record::parse(steps.as_bytes());
        assert_eq!((boot.at("agent-ready"), boot.at("kernel-entry")), (Some(7), None));
        assert_eq!(
            (boot.instructions("program-entry"), boot.instructions("agent-ready")),
            (Some(5), None)
        );
        assert_eq!(boot.template, None);
        let text = format!(r#"{{"steps":{steps},"template":{{"key":"k","nonce":"n"}}}}"#);
        let clone = Record::parse(text.as_bytes());
        assert_eq!(clone.at("program-entry"), Some(9));
        assert_eq!(clone.template, Some(Seen { key: "k".into(), nonce: Some("n".into()) }));
        assert!(Record::parse(b"nothing").steps.is_empty());
    }
}
