//! OCI images to block images.
