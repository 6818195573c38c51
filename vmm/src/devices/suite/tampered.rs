//! What may have happened to a state in a file.

use serde_json::{Value, json};

/// Every way to change one thing of a value: another number or type, something missing, twice, out of order, or too much.
pub(super) fn tampered(value: &Value) -> Vec<Value> {
    let mut ways = vec![Value::Null, json!(-1), json!(1.5), json!("x"), json!([]), json!({})];
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            let near = [
                0,
                1,
                number ^ 1,
                number.wrapping_add(1),
                number << 1,
                number << 32,
                number ^ 0x8000,
            ];
            let large = [0xffff, 0x1_0000, u64::from(u32::MAX), 1 << 32, u64::MAX];
            ways.extend([&near[..], &large[..]].concat().into_iter().map(Value::from));
        }
        Value::Bool(bool) => ways.push(json!(!bool)),
        Value::String(string) => ways.extend([json!(format!("{string}\n\0")), json!("")]),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let changed = |change: &dyn Fn(&mut Vec<Value>)| {
                    let mut items = items.clone();
                    change(&mut items);
                    Value::Array(items)
                };
                ways.push(changed(&|items| drop(items.remove(index))));
                ways.push(changed(&|items| items.push(items[index].clone())));
                ways.push(changed(&|items| items.rotate_left(index)));
                ways.extend(
                    tampered(item)
                        .into_iter()
                        .map(|item| changed(&|items| items[index] = item.clone())),
                );
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let changed = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
                    let mut fields = fields.clone();
                    change(&mut fields);
                    Value::Object(fields)
                };
                ways.push(changed(&|fields| drop(fields.remove(name))));
                ways.push(changed(&|fields| {
                    fields.insert("surplus".to_owned(), field.clone());
                }));
                ways.extend(
                    tampered(field)
                        .into_iter()
                        .map(|field| changed(&|fields| fields[name] = field.clone())),
                );
            }
        }
        Value::Null => {}
    }
    ways
}
