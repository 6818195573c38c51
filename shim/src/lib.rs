//! What the programs of Bulkhead share: settings, images, containers, sandboxes.

pub mod bench;
pub mod choice;
pub mod cli;
pub mod cni;
pub mod commands;
pub mod container;
mod files;
pub mod keeper;
pub mod lifecycle;
pub mod logs;
mod monitor;
pub mod network;
pub mod oci;
pub mod progress;
pub mod sandbox;
pub mod session;
pub mod settings;
pub mod size;
pub mod stdio;
mod tail;
pub mod template;
mod text;
pub mod timeline;
