//! `bulkhead image import|ls|rm`.

use std::io::{self, Write};

use bulkhead_rootfs::{Image, Source, Store};
use serde_json::json;

use super::CommandError;
use crate::{
    cli::ImageCommand, container::directory::Registry, progress::Bars, settings::Settings, size,
};

/// Does what `command` says.
///
/// # Errors
/// [`CommandError`].
pub fn image(command: &ImageCommand) -> Result<(), CommandError> {
    let settings = Settings::load()?;
    let registry = Registry::open(&settings.run, &settings.data)?;
    let living = registry.sweep()?;
    let store = Store::open(&settings.data)?;
    let mut out = io::stdout().lock();
    match command {
        ImageCommand::Import { name, quiet, source } => {
            let source = Source::parse(source)?;
            let bars = if *quiet { Bars::hidden() } else { Bars::for_stderr() };
            let image = store.import(&source, name.as_deref(), &bars)?;
            writeln!(out, "{}", image.id)?;
        }
        ImageCommand::Ls { json, quiet } => list(&store.list()?, *json, *quiet, &mut out)?,
        ImageCommand::Rm { images } => {
            for reference in images {
                let image = store.get(reference)?;
                if let Some(user) = living.iter().find(|state| state.image == image.id.to_string())
                {
                    let message = format!(
                        "the image {reference} is in use by container {}; end that first",
                        user.name
                    );
                    return Err(CommandError::Usage(message));
                }
                store.remove(reference)?;
                writeln!(out, "{reference}")?;
            }
        }
    }
    Ok(())
}

fn list(images: &[Image], as_json: bool, quiet: bool, out: &mut impl Write) -> io::Result<()> {
    if as_json {
        let images = images.iter().map(|image| {
            json!({ "id": image.id.to_string(), "names": image.names, "size": image.size, "created": image.created })
        });
        return writeln!(out, "{}", serde_json::Value::Array(images.collect()));
    }
    if quiet {
        return images.iter().try_for_each(|image| writeln!(out, "{}", image.id));
    }
    writeln!(out, "{:<40} {:<14} {:<22} {:>8}", "NAME", "ID", "CREATED", "SIZE")?;
    for image in images {
        let id = &image.id.hex()[..12];
        let name =
            if image.names.is_empty() { "<none>".to_owned() } else { image.names.join(", ") };
        let created = image.created.as_deref().unwrap_or("-");
        let created = created.get(..19).unwrap_or(created);
        writeln!(out, "{name:<40} {id:<14} {created:<22} {:>8}", size::human(image.size))?;
    }
    Ok(())
}
