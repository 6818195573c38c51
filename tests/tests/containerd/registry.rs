//! An image of a registry: what is run comes over HTTP, as it does for users.

use bulkhead_tests::harness::{
    Registry,
    containerd::{Containerd, IMAGE},
    oci::Oci,
};

isolations!(an_image_is_pulled_and_run);

fn an_image_is_pulled_and_run(oci: &Oci) {
    let containerd = Containerd::new(oci);
    let registry = Registry::start(&oci.path("registry"));
    let name = registry.name("busybox:test");
    containerd.push(IMAGE, &name);
    // Nothing of it stays but what the registry has.
    containerd.text(&["image", "rm", "--sync", &name, IMAGE]);
    assert_eq!(containerd.text(&["image", "ls", "-q"]), "");
    containerd.text(&["image", "pull", "--plain-http", &name]);
    assert!(registry.blobs_read("busybox") >= 2, "{}", registry.logged());
    let words = ["sh", "-c", "echo pulled; exit 3"];
    let run = containerd.run_image(&name, oci.peer(), &["--rm"], "pulled", &words);
    let outcome = oci.run_command(run);
    outcome.assert_code(3);
    assert_eq!(outcome.text(), "pulled\n");
}
