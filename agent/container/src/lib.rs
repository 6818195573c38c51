//! Makes a container from an OCI runtime specification.
