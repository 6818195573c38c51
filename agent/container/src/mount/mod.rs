//! The container's mounts. Everything is planned before the container's process exists; the process itself then does
//! it: sources of bind mounts are opened first, then its root becomes the container's root, and all else happens inside,
//! where no link of the image leads out.

mod filesystem;
mod mask;
mod node;
mod options;
mod root;

pub(crate) use filesystem::Plan as Mounts;
pub(crate) use mask::{mask, read_only, set_read_only};
pub(crate) use node::Nodes;
pub(crate) use options::propagation;
pub(crate) use root::{Entry, Outside, enter, prepare};
pub use root::{Lower, Root, Upper};
