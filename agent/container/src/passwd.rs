//! The home directory that a container's `/etc/passwd` (passwd(5)) gives to a user. The file is the image's: it may be
//! anything, and is read only when it is a regular file, and only so far.

use rustix::fs::{FileType, Mode, OFlags};

const MAX_SIZE: usize = 1 << 20;

/// The home of `uid` in the root that this process has; `None` when the file does not say.
pub(crate) fn home(uid: u32) -> Option<String> {
    // A FIFO of this name must not hold the process up.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open("/etc/passwd", flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let size = usize::try_from(stat.st_size).ok()?.min(MAX_SIZE);
    let mut text = Vec::with_capacity(size);
    while text.len() < size {
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    find(&String::from_utf8_lossy(&text), uid)
}

fn find(text: &str, uid: u32) -> Option<String> {
    let mut fields = text.lines().map(|line| line.split(':').skip(2));
    let home = fields.find_map(|mut fields| {
        let matches = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        matches.then_some(home)
    })?;
    home.starts_with('/').then(|| home.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_user_counts() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbad\n:::\nme:x:1000:100::/home/me:\nme2:x:1000:1::/other:\n";
        assert_eq!(find(text, 0).as_deref(), Some("/root"));
        assert_eq!(find(text, 1000).as_deref(), Some("/home/me"));
        assert_eq!(find(text, 7), None);
        assert_eq!(find("a:x:5:5::relative:", 5), None);
    }
}
