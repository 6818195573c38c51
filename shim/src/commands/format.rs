//! The part of Go's templates that people type after `inspect -f`: `{{.A.B}}` and `{{json .A}}`.

use serde_json::Value;

/// Fills in the fields of `value`.
///
/// # Errors
/// A template that asks for more, or for a field that is not there.
pub(super) fn fill(text: &str, value: &Value) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inside, after) =
            after.split_once("}}").ok_or_else(|| format!("-f {text}: a }}}} is missing"))?;
        out.push_str(before);
        let words: Vec<&str> = inside.split_whitespace().collect();
        match words.as_slice() {
            ["json", path] => out.push_str(&find(path, value)?.to_string()),
            [path] => out.push_str(&plain(find(path, value)?)),
            _ => {
                return Err(format!(
                    "-f {{{{{inside}}}}}: {{{{.Field}}}} or {{{{json .Field}}}} is needed"
                ));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn find<'v>(path: &str, value: &'v Value) -> Result<&'v Value, String> {
    let missing = || format!("-f: there is no field {path}");
    let names = path.strip_prefix('.').ok_or_else(missing)?;
    let names = names.split('.').filter(|name| !name.is_empty());
    names.into_iter().try_fold(value, |value, name| value.get(name)).ok_or_else(missing)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_filled_in() {
        let value = json!({ "State": { "ExitCode": 7, "Error": "" }, "Name": "web" });
        let filled = |text| fill(text, &value);
        assert_eq!(filled("{{.Name}} {{ .State.ExitCode }}!").unwrap(), "web 7!");
        assert_eq!(filled("{{json .State}}").unwrap(), "{\"Error\":\"\",\"ExitCode\":7}");
        assert_eq!(filled("{{json .Name}}").unwrap(), "\"web\"");
        assert_eq!(filled("plain").unwrap(), "plain");
        for bad in ["{{.Nope}}", "{{.Name", "{{range .Mounts}}", "{{Name}}"] {
            assert!(filled(bad).is_err(), "{bad}");
        }
    }
}
