//! What the programs of Bulkhead share: sandboxes, containers, configuration.
