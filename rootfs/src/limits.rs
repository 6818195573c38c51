//! The bounds that an untrusted image is held to. One place, so that a reader can see them all.

/// Bytes of one block of the disk that the guest sees; every file's content starts on one.
pub const BLOCK: u64 = 4096;

/// Layers in an image. Docker allows 127.
pub(crate) const LAYERS: usize = 256;
/// Bytes of an image index or manifest (OCI distribution-spec: registries accept at least 4 MiB).
pub(crate) const MANIFEST_BYTES: u64 = 4 << 20;
/// Bytes of an image configuration.
pub(crate) const CONFIG_BYTES: u64 = 8 << 20;
/// Indexes inside indexes.
pub(crate) const INDEX_DEPTH: usize = 4;

/// Entries of one layer, directories that are only implied by a path included.
pub(crate) const LAYER_ENTRIES: usize = 2_000_000;
/// Entries of a whole image, all layers together.
pub(crate) const IMAGE_ENTRIES: usize = 4_000_000;
/// Bytes of names, link targets, attributes and chunk maps of one layer, held in memory while it is imported.
pub(crate) const LAYER_METADATA: usize = 256 << 20;
/// The same, for all layers of an image.
pub(crate) const IMAGE_METADATA: usize = 1 << 30;
/// Bytes of an uncompressed layer: 1 TiB. A bomb meets the free space of the store's file system first.
pub(crate) const LAYER_STREAM: u64 = 1 << 40;
/// Bytes of the store's file system that an import leaves free.
pub(crate) const RESERVED_SPACE: u64 = 64 << 20;

/// Bytes of a pax header, GNU long name or GNU long link (what Go's archive/tar, and so docker, allows).
pub(crate) const TAR_HEADER: u64 = 1 << 20;
/// Data segments of one sparse file.
pub(crate) const SPARSE_SEGMENTS: usize = 262_144;

/// Bytes of a path (PATH_MAX without its final NUL).
pub(crate) const PATH: usize = 4095;
/// Bytes of one name of a path (NAME_MAX; EROFS_NAME_LEN).
pub(crate) const NAME: usize = 255;
/// Bytes of one extended attribute's value (`e_value_size` of EROFS is 16 bits wide).
pub(crate) const XATTR_VALUE: usize = 65_535;
/// Bytes of all extended attributes of one entry, as EROFS stores them (`i_xattr_icount` is 16 bits wide).
pub(crate) const XATTR_AREA: usize = 4 * 65_534;
/// Symbolic links followed while one path is resolved (the kernel's MAXSYMLINKS).
pub(crate) const SYMLINKS: usize = 40;

/// Entries of a docker archive's own table.
pub(crate) const ARCHIVE_ENTRIES: usize = 65_536;
/// Bytes of one file, holes included: 16 TiB, what the guest's ext4 can hold.
pub(crate) const FILE: u64 = 16 << 40;
