//! buildah: an image is built with its RUN steps in containers of the runtime.

use std::{fs, path::PathBuf, process::Command};

use bulkhead_tests::harness::{Outcome, oci::Oci};
use serde_json::Value;

use super::shared::{archive, isolation, runtime};

isolations!(a_build);

struct Buildah<'a> {
    oci: &'a Oci,
    runtime: PathBuf,
}

impl Buildah<'_> {
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("buildah");
        for (option, name) in [("--root", "storage"), ("--runroot", "storage-run")] {
            command.arg(option).arg(self.oci.path(name));
        }
        command.args(["--storage-driver", "overlay"]).args(arguments);
        // Without CAP_SYS_RESOURCE limits cannot be raised.
        command
            .env("CONTAINERS_CONF", self.oci.path("containers.conf"))
            .env("BUILDAH_RUNTIME", &self.runtime);
        self.oci.settings(&mut command);
        self.oci.run_command(command)
    }
}

impl Drop for Buildah<'_> {
    fn drop(&mut self) {
        self.run(&["rm", "--all"]);
        self.run(&["rmi", "--all", "--force"]);
        if self.oci.cleared() {
            for name in ["storage", "storage-run"] {
                fs::remove_dir_all(self.oci.path(name)).ok();
            }
        }
    }
}

/// FROM, RUN, COPY, WORKDIR, ENV, USER, CMD; a RUN that fails ends the build with its code.
fn a_build(oci: &Oci) {
    fs::write(
        oci.path("containers.conf"),
        "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n",
    )
    .unwrap();
    let buildah = Buildah { oci, runtime: runtime(oci) };
    let source = format!("docker-archive:{}", archive(oci).display());
    buildah.run(&["pull", "--quiet", &source]).assert_code(0);
    let context = oci.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("copied"), "a copied file\n").unwrap();
    let dockerfile = "FROM localhost/busybox:test\n\
                      ENV GREETING=hello\n\
                      WORKDIR /work/deep\n\
                      COPY copied /work/copied\n\
                      RUN echo $GREETING from $(pwd) > made && cat /work/copied >> made && chown 1000:1000 made && uname -r > kernel\n\
                      USER 1000:1000\n\
                      RUN id -u > /tmp/who\n\
                      CMD [\"cat\", \"made\"]\n";
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let flag = isolation(oci).map(|isolation| format!("isolation={isolation}"));
    let flags: Vec<&str> = flag.iter().flat_map(|flag| ["--runtime-flag", flag.as_str()]).collect();
    let runtime = buildah.runtime.display().to_string();
    let build = |file: &str, tag: &str| {
        let options = [
            "build",
            "--isolation",
            "oci",
            "--runtime",
            &runtime,
            "--network",
            "none",
            "--pull-never",
        ];
        buildah.run(
            &[&options[..], &flags, &["--file", file, "--tag", tag, context.to_str().unwrap()]]
                .concat(),
        )
    };
    let outcome = build(context.join("Dockerfile").to_str().unwrap(), "localhost/built:test");
    outcome.assert_code(0);
    let inspected = buildah.run(&["inspect", "--type", "image", "localhost/built:test"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["Cmd"], serde_json::json!(["cat", "made"]));
    assert_eq!(
        (&config["User"], &config["WorkingDir"]),
        (&"1000:1000".into(), &"/work/deep".into())
    );
    assert!(config["Env"].as_array().unwrap().contains(&"GREETING=hello".into()), "{config}");
    let from = buildah.run(&["from", "--name", "look", "localhost/built:test"]);
    from.assert_code(0);
    let mounted = buildah.run(&["mount", "look"]);
    mounted.assert_code(0);
    let root = PathBuf::from(mounted.text().trim());
    assert_eq!(
        fs::read_to_string(root.join("work/deep/made")).unwrap(),
        "hello from /work/deep\na copied file\n"
    );
    assert_eq!(fs::read_to_string(root.join("tmp/who")).unwrap(), "1000\n");
    let kernel = fs::read_to_string(root.join("work/deep/kernel")).unwrap();
    let own = rustix::system::uname();
    assert_eq!(
        kernel.trim() == own.release().to_string_lossy(),
        !oci.is_vm(),
        "the kernel of RUN is {kernel}"
    );
    let owner = fs::metadata(root.join("work/deep/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 1000);
    buildah.run(&["umount", "look"]).assert_code(0);
    let failing = context.join("Failing");
    fs::write(&failing, "FROM localhost/busybox:test\nRUN exit 7\n").unwrap();
    let outcome = build(failing.to_str().unwrap(), "localhost/failing:test");
    assert_ne!(outcome.code(), 0, "{outcome}");
    assert!(outcome.error_text().contains('7'), "{outcome}");
}
