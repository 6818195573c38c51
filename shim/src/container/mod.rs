//! A container as the host keeps it: its directory and lock, and the specification made for it from an image.

pub mod directory;
pub mod spec;
pub mod user;
