//! Turns the user that an image or `-u` names into numbers, with the image's own `/etc/passwd` and `/etc/group`.
//!
//! The rules are docker's: `user[:group]`, each a name or a number; a name must be in the file, a number need not; the
//! supplementary groups are those that list the user, and only when no group was given.

/// A resolved user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub additional_gids: Vec<u32>,
    /// The home directory, if the image's `/etc/passwd` knows the user.
    pub home: Option<String>,
}

/// Why a user could not be resolved.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Not in the image's `/etc/passwd`.
    #[error("the user {0:?} is not in the image's /etc/passwd; give a number or another -u")]
    NoUser(String),
    /// Not in the image's `/etc/group`.
    #[error("the group {0:?} is not in the image's /etc/group; give a number or another -u")]
    NoGroup(String),
}

/// Resolves `text` with the two files' contents. An empty text is root.
///
/// # Errors
/// [`UserError`].
pub fn resolve(text: &str, passwd: &str, group: &str) -> Result<User, UserError> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = records(passwd).find_map(|fields| {
        let [name, _, uid, gid, ref rest @ ..] = fields[..] else { return None };
        let uid = uid.parse::<u32>().ok()?;
        let home = rest.get(1).filter(|home| !home.is_empty()).map(|home| (*home).to_owned());
        (name == user || number == Some(uid))
            .then(|| (name, uid, gid.parse::<u32>().unwrap_or(0), home))
    });
    let (name, uid, primary, home) = match (entry, number) {
        (Some((name, uid, gid, home)), _) => (Some(name), uid, gid, home),
        (None, Some(uid)) => (None, uid, 0, None),
        (None, None) => return Err(UserError::NoUser(user.into())),
    };
    let Some(wanted) = wanted_group else {
        let additional_gids = records(group)
            .filter_map(|fields| {
                let [_, _, gid, members, ..] = fields[..] else { return None };
                let gid = gid.parse().ok()?;
                let listed =
                    name.is_some_and(|name| members.split(',').any(|member| member == name));
                (listed && gid != primary).then_some(gid)
            })
            .collect();
        return Ok(User { uid, gid: primary, additional_gids, home });
    };
    let gid = records(group)
        .find_map(|fields| {
            let [name, _, gid, ..] = fields[..] else { return None };
            (name == wanted).then(|| gid.parse().ok())?
        })
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| UserError::NoGroup(wanted.into()))?;
    Ok(User { uid, gid, additional_gids: Vec::new(), home })
}

fn records(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:4:other,web\nssl:x:5:web\n";

    #[test]
    fn names_and_numbers_are_resolved_as_docker_does() {
        let at = |uid, gid, more: &[u32], home: Option<&str>| {
            Ok(User { uid, gid, additional_gids: more.into(), home: home.map(str::to_owned) })
        };
        let user = |uid, gid, more: &[u32]| at(uid, gid, more, None);
        assert_eq!(resolve("", PASSWD, GROUP), at(0, 0, &[], Some("/root")));
        assert_eq!(resolve("web", PASSWD, GROUP), at(33, 34, &[4, 5], Some("/")));
        assert_eq!(resolve("33", PASSWD, GROUP), at(33, 34, &[4, 5], Some("/")));
        assert_eq!(resolve("web:log", PASSWD, GROUP), at(33, 4, &[], Some("/")));
        assert_eq!(resolve("1000", PASSWD, GROUP), user(1000, 0, &[]));
        assert_eq!(resolve("1000:2000", "", ""), user(1000, 2000, &[]));
        assert_eq!(resolve(":ssl", PASSWD, GROUP), at(0, 5, &[], Some("/root")));
        assert_eq!(resolve("nobody", PASSWD, GROUP), Err(UserError::NoUser("nobody".into())));
        assert_eq!(resolve("web:none", PASSWD, GROUP), Err(UserError::NoGroup("none".into())));
        assert_eq!(resolve("-1", "", ""), Err(UserError::NoUser("-1".into())));
    }
}
