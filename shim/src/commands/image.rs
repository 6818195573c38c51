//! `bulkhead image import|ls|rm`.

use std::io::{self, Write};

use bulkhead_rootfs::{Image, Source};
use serde_json::json;

use super::{CommandError, context::Context};
use crate::{cli::ImageCommand, progress::Bars, size};

/// Does what `command` says.
///
/// # Errors
/// [`CommandError`].
pub(super) fn image(command: &ImageCommand) -> Result<(), CommandError> {
    let context = Context::open()?;
    let store = context.store()?;
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
                if let Some(user) = user_of(&context, &image)? {
                    let message = format!(
                        "the image {reference} is in use by container {user}; remove that first (bulkhead rm)"
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

/// The name of a container that is made of the image.
fn user_of(context: &Context, image: &Image) -> Result<Option<String>, CommandError> {
    let id = image.id.to_string();
    let definitions =
        context.registry.places()?.into_iter().filter_map(|place| place.definition().ok());
    Ok(definitions.into_iter().find(|definition| definition.image == id).map(|found| found.name))
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
