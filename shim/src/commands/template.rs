//! `bulkhead template ls|create|rm|prune`.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    CommandError,
    context::{for_each, say},
    create::{machine_cpus, machine_memory},
    table::{Table, ago},
};
use crate::{
    cli::{TemplateCommand, TemplateCreateArgs},
    session::note,
    settings::Settings,
    size,
    template::{self, Entry, Machine, Shape, Store, Tenant},
};

/// Does what `command` says.
///
/// # Errors
/// [`CommandError`].
pub(super) fn template(command: &TemplateCommand) -> Result<u8, CommandError> {
    let settings = Settings::load()?;
    let store = Store::open(&settings.template)?;
    match command {
        TemplateCommand::Ls { json, quiet } => {
            let entries = store.list();
            let out = &mut io::stdout().lock();
            match (json, quiet) {
                (true, _) => {
                    writeln!(out, "{}", Value::Array(entries.iter().map(described).collect()))?;
                }
                (_, true) => entries.iter().try_for_each(|entry| writeln!(out, "{}", entry.key))?,
                _ => table(&entries).write(out)?,
            }
        }
        TemplateCommand::Create(args) => create(&settings, &store, args)?,
        TemplateCommand::Rm { keys } => {
            return Ok(for_each(keys, |beginning| {
                let key = store.find(beginning)?;
                store.remove(&key, settings.boot_timeout)?;
                say(key.as_str())
            }));
        }
        TemplateCommand::Prune { all } => {
            store.prune(*all).iter().try_for_each(|key| say(key.as_str()))?;
        }
    }
    Ok(0)
}

fn create(
    settings: &Settings,
    store: &Store,
    args: &TemplateCreateArgs,
) -> Result<(), CommandError> {
    let shape = Shape::of(&Machine {
        kernel: args.kernel.clone().map_or_else(|| settings.kernel(), Ok)?,
        initrd: settings.initrd()?,
        vmm: settings.vmm()?,
        vcpus: machine_cpus(args.cpus)?,
        memory_mib: machine_memory(args.memory.unwrap_or(settings.memory))?,
        backend: settings.backend,
        pod: false,
        tenant: Tenant::new(args.tenant.as_deref())?,
    })?;
    store.forgive(&shape.key()?);
    let tell = |step: template::Step| {
        if !args.quiet {
            note(&step.to_string());
        }
    };
    let held = template::obtain(settings, store, &shape, &tell)?;
    say(held.key.as_str())
}

/// Ready, outdated or damaged, and why the latter.
fn state(entry: &Entry) -> (&'static str, Option<&str>) {
    match &entry.metadata {
        Ok(_) if entry.current => ("ready", None),
        Ok(_) => ("outdated", None),
        Err(why) => ("damaged", Some(why)),
    }
}

fn described(entry: &Entry) -> Value {
    let (state, why) = state(entry);
    let mut value = json!({
        "key": entry.key, "state": state, "disk": entry.disk, "used": entry.used,
    });
    if let Some(why) = why {
        value["error"] = why.into();
    }
    if let Ok(metadata) = &entry.metadata {
        let shape = &metadata.shape;
        let more = [
            ("tenant", json!(shape.tenant)),
            ("vcpus", json!(shape.vcpus)),
            ("memory_mib", json!(shape.memory_mib)),
            ("kernel", json!(shape.kernel())),
            ("initrd", json!(shape.initrd())),
            ("guest_kernel", json!(metadata.ready.kernel)),
            ("made", json!(metadata.made)),
            ("took_ms", json!(metadata.took_ms)),
            ("instructions", json!(metadata.instructions)),
        ];
        more.into_iter().for_each(|(name, field)| value[name] = field);
    }
    value
}

fn since(time: Timestamp) -> String {
    format!("{} ago", ago(time, Timestamp::now()))
}

fn table(entries: &[Entry]) -> Table {
    let mut table =
        Table::new(&["KEY", "TENANT", "CPUS", "MEMORY", "DISK", "MADE", "USED", "STATE"]);
    for entry in entries {
        let (state, why) = state(entry);
        let of = |field: fn(&template::Metadata) -> String| {
            entry.metadata.as_ref().map_or_else(|_| "-".into(), field)
        };
        table.row(vec![
            entry.key.short().to_owned(),
            of(|metadata| metadata.shape.tenant.to_string()),
            of(|metadata| metadata.shape.vcpus.to_string()),
            of(|metadata| format!("{} MiB", metadata.shape.memory_mib)),
            size::human(entry.disk),
            of(|metadata| since(metadata.made)),
            entry.used.map_or_else(|| "-".into(), since),
            why.map_or_else(|| state.to_owned(), |why| format!("{state}: {why}")),
        ]);
    }
    table
}
