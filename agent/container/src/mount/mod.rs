//! The container's mounts. Everything is planned before the container's process exists; the process itself then does
//! it: sources of bind mounts are opened first, then its root becomes the container's root, and all else happens inside,
//! where no link of the image leads out.

mod ahead;
mod cgroup;
mod copy_up;
mod host;
mod idmap;
mod make;
mod mask;
mod node;
mod options;
mod plan;
mod root;
mod root_mount;

pub(crate) use ahead::{Contents, Tree};
pub(crate) use cgroup::groups;
pub use host::{map_owners, mount, mount_mapped};
pub(crate) use mask::{mask, read_only, set_read_only};
pub(crate) use node::Nodes;
pub(crate) use options::propagation;
pub(crate) use plan::Plan as Mounts;
pub(crate) use root::{Entry, Outside, enter, keep_apart, make_point, mount_at, prepare};
pub use root::{Lower, Root, Upper};
pub(crate) use root_mount::RootMount;
