//! Clones under runc's command line, with a directory of the host as root.

use std::fs;

use bulkhead_tests::harness::oci::{Isolation, Oci, on};
use serde_json::{Value, json};

#[test]
fn a_bundle_runs_in_a_clone_from_its_creation_to_its_deletion() {
    on(Isolation::Vm, |oci| {
        let mut bundle = oci.bundle("clone");
        bundle.sh("echo begun; read word; echo got $word; exit 9");
        let mount = json!({"destination": "/mnt", "type": "bind", "source": oci.path("").display().to_string(),
            "options": ["rbind", "ro"]});
        bundle.config["mounts"].as_array_mut().unwrap().push(mount);
        bundle.write();
        fs::write(oci.path("shared"), "from the host\n").unwrap();
        let path = bundle.path.display().to_string();
        let words = ["run", "--template", "require", "--bundle", &path, "clone"];
        let mut run = oci.start(&words);
        run.wait_for("begun");
        let joined = oci.run(&["exec", "clone", "cat", "/mnt/shared"]);
        assert_eq!(joined.assert_code(0).text(), "from the host\n");
        let text = fs::read(oci.root().join("clone/timeline.json")).unwrap();
        let timeline: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(timeline["template"]["nonce"].as_str().unwrap().len(), 32, "{timeline}");
        assert_eq!(timeline["template"]["key"].as_str().unwrap().len(), 64);
        let steps = timeline["steps"].as_array().unwrap().iter();
        let names: Vec<_> = steps.map(|step| step["step"].as_str().unwrap()).collect();
        assert!(names.contains(&"agent-ready") && !names.contains(&"agent-entry"), "{names:?}");
        println!("{timeline}");
        oci.run(&["pause", "clone"]).assert_code(0);
        oci.run(&["resume", "clone"]).assert_code(0);
        run.write(b"word\n");
        let outcome = run.wait();
        assert_eq!(outcome.assert_code(9).text(), "begun\ngot word\n");
    });
}

#[test]
fn annotations_choose_no_more_than_they_may() {
    let Some(oci) = Oci::new(Isolation::Vm) else { return };
    for (name, value, word) in [
        ("dev.bulkhead.tenant", "another", "consent"),
        ("dev.bulkhead.template", "require", "consent"),
        ("dev.bulkhead.template", "sometimes", "never"),
    ] {
        let mut bundle = oci.bundle("refused");
        bundle.config["annotations"] = json!({ name: value });
        bundle.write();
        let path = bundle.path.display().to_string();
        let refused = oci.run(&["create", "--bundle", &path, "refused"]);
        refused.assert_code(1);
        let error = refused.error_text();
        assert!(error.contains(name) && error.contains(word), "{refused}");
        assert_eq!(error.lines().count(), 1, "{refused}");
    }
    oci.assert_nothing_left();
}
