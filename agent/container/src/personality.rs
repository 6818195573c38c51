//! The execution domain (personality(2)).

use crate::{
    error::{Error, at},
    spec, sys,
};

/// The domain's number.
///
/// # Errors
/// [`Error::Invalid`] for a domain that the specification does not have, and for flags, of which it has none.
pub(crate) fn parse(personality: &spec::Personality) -> Result<u32, Error> {
    if let Some(flag) = personality.flags.first() {
        return Err(Error::invalid("linux.personality.flags[0]", flag, "no flags are known"));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        // `PER_LINUX32`.
        "LINUX32" => Ok(8),
        domain => {
            let why = "LINUX and LINUX32 are the domains that there are";
            Err(Error::invalid("linux.personality.domain", domain, why))
        }
    }
}

/// Takes it on.
pub(crate) fn apply(domain: u32) -> Result<(), Error> {
    sys::personality(domain).map_err(at("set linux.personality to", domain))
}
