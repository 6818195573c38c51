//! containerd's shim: `ctr run --rm … true` beside containerd's own, what stays in memory, and how long a killed containerd takes to know
//! its tasks again.

use std::time::{Duration, Instant};

use bulkhead_tests::harness::{
    containerd::Containerd,
    kvm_missing,
    oci::{Isolation, Oci, Peer},
};

use super::{
    Reason,
    cgroups::leave_hybrid,
    proc::{children, parent, rollup, vmm_of},
    report::{Report, Unit, quantile},
};

/// What is compared, in turns.
const RUNTIMES: [(Peer, &str); 4] = [
    (Peer::Bulkhead(Isolation::Vm), "microVM, a clone"),
    (Peer::Bulkhead(Isolation::Host), "plain, the shim's"),
    (Peer::Runc, "plain, io.containerd.runc.v2"),
    (Peer::Crun, "plain, io.containerd.runc.v2 with crun"),
];
/// Containers that join a pod.
const MEMBERS: u16 = 3;
/// Containers that a killed containerd has to find again.
const TASKS: usize = 50;

pub(crate) fn measure(report: &mut Report, runs: u16) {
    if kvm_missing() {
        return report.note("containers of containerd", "there is no /dev/kvm");
    }
    match leave_hybrid() {
        Ok(groups) => report.note("control groups of containerd's containers", groups),
        Err(reason) => return report.fail("containers of containerd", &reason),
    }
    let oci = Oci::with(Peer::Bulkhead(Isolation::Vm));
    let mut containerd = Containerd::new(&oci);
    let able = able(report, &containerd);
    if let Err(reason) = starts(report, &containerd, &able, runs) {
        return report.fail("ctr run --rm", &reason);
    }
    for (peer, name) in able {
        if let Err(reason) = memory(report, &containerd, peer, name) {
            report.fail(name, &reason);
        }
    }
    if let Err(reason) = pod(report, &containerd) {
        report.fail("a pod", &reason);
    }
    if let Err(reason) = restart(report, &mut containerd) {
        report.fail("a killed containerd", &reason);
    }
}

/// The runtimes that work on this host, after a start that is not counted: it finds nothing in memory.
fn able(report: &mut Report, containerd: &Containerd<'_>) -> Vec<(Peer, &'static str)> {
    let mut able = RUNTIMES.to_vec();
    able.retain(|(peer, name)| match once(containerd, *peer, "first") {
        Ok(_) => true,
        Err(reason) if matches!(peer, Peer::Bulkhead(_)) => {
            report.fail(name, &reason);
            false
        }
        Err(reason) => {
            report.note(name, &format!("does not run on this host: {reason}"));
            false
        }
    });
    able
}

/// Milliseconds of a whole life.
fn once(containerd: &Containerd<'_>, peer: Peer, id: &str) -> Result<f64, Reason> {
    let command = containerd.run_with(peer, &["--rm"], id, &["true"]);
    let begin = Instant::now();
    let outcome = containerd.oci.run_command(command);
    let took = begin.elapsed().as_secs_f64() * 1e3;
    if outcome.status.success() {
        return Ok(took);
    }
    containerd.run(&["container", "rm", id]);
    let text = outcome.error_text();
    let last = text.lines().rfind(|line| !line.is_empty()).unwrap_or_default();
    Err(format!("ctr run: {}: {last}", outcome.status))
}

fn starts(
    report: &mut Report,
    containerd: &Containerd<'_>,
    able: &[(Peer, &str)],
    runs: u16,
) -> Result<(), Reason> {
    let mut samples = vec![Vec::new(); able.len()];
    for run in 1..=runs {
        for ((peer, name), samples) in able.iter().zip(&mut samples) {
            let took = once(containerd, *peer, &format!("start-{run}"));
            samples.push(took.map_err(|reason| format!("{name}: {reason}"))?);
        }
    }
    for ((_, name), samples) in able.iter().zip(samples) {
        let how = "`ctr run --rm busybox true` from its start to its end, the runtimes in turns";
        report.add(&format!("ctr run --rm: {name}, p50"), Unit::Milliseconds, &samples, how);
        let figure = format!("ctr run --rm: {name}, p99");
        report.add(
            &figure,
            Unit::Milliseconds,
            quantile(&samples, 0.99).as_slice(),
            "the same samples",
        );
    }
    Ok(())
}

/// What a pod takes, and what each container does that joins it.
fn pod(report: &mut Report, containerd: &Containerd<'_>) -> Result<(), Reason> {
    let peer = Peer::Bulkhead(Isolation::Vm);
    let start = |id: &str, kind: &str| {
        let kind = format!("io.kubernetes.cri.container-type={kind}");
        let pod = "io.kubernetes.cri.sandbox-id=pod";
        let options = ["--annotation", &kind, "--annotation", pod];
        detached_with(containerd, peer, &options, id)
    };
    start("pod", "sandbox")?;
    let (_, shim) = processes(containerd, "pod")?;
    let alone = family(shim)?;
    let how = "proportional memory of its shim, monitor and VMM with the guest; its program sleeps";
    report.add("a pod in a microVM", Unit::Kib, &[alone], how);
    let members: Vec<_> = (0..MEMBERS).map(|number| format!("member-{number}")).collect();
    for id in &members {
        start(id, "container")?;
    }
    let each = (family(shim)? - alone) / f64::from(MEMBERS);
    let how = format!("the same of {MEMBERS} that joined it, whose programs sleep, divided");
    report.add("each further container of a pod", Unit::Kib, &[each], &how);
    members.iter().for_each(|id| containerd.remove(id));
    containerd.remove("pod");
    Ok(())
}

/// The process of a container's task, and its shim, which adopts it.
fn processes(containerd: &Containerd<'_>, id: &str) -> Result<(u32, u32), Reason> {
    let (pid, _) = containerd.task(id).ok_or("its task is not there")?;
    Ok((pid, parent(pid)?))
}

/// KiB that a process and all below it take, with their parts of what they share.
fn family(pid: u32) -> Result<f64, Reason> {
    let mut all = rollup(pid, "Pss")?;
    for child in children(pid)? {
        all += family(child)?;
    }
    Ok(all)
}

fn memory(
    report: &mut Report,
    containerd: &Containerd<'_>,
    peer: Peer,
    name: &str,
) -> Result<(), Reason> {
    let id = "memory";
    detached(containerd, peer, id)?;
    let (pid, shim) = processes(containerd, id)?;
    let how = "its program sleeps; /proc/PID/smaps_rollup";
    let figure = |what: &str| format!("{what}: {name}");
    report.add(&figure("shim's resident memory"), Unit::Kib, &[rollup(shim, "Rss")?], how);
    report.add(&figure("shim's proportional memory"), Unit::Kib, &[rollup(shim, "Pss")?], how);
    if peer == Peer::Bulkhead(Isolation::Vm) {
        let (monitor, vmm) = (rollup(pid, "Pss")?, rollup(vmm_of(pid)?, "Pss")?);
        report.add("monitor's proportional memory", Unit::Kib, &[monitor], how);
        let how = "the guest's memory included";
        report.add("VMM's and guest's proportional memory", Unit::Kib, &[vmm], how);
    }
    containerd.remove(id);
    Ok(())
}

fn detached(containerd: &Containerd<'_>, peer: Peer, id: &str) -> Result<(), Reason> {
    detached_with(containerd, peer, &[], id)
}

fn detached_with(
    containerd: &Containerd<'_>,
    peer: Peer,
    options: &[&str],
    id: &str,
) -> Result<(), Reason> {
    let options = [&["--detach", "--null-io"], options].concat();
    let command = containerd.run_with(peer, &options, id, &["sleep", "1000000"]);
    let outcome = containerd.oci.run_command(command);
    if outcome.status.success() { Ok(()) } else { Err(outcome.to_string()) }
}

fn restart(report: &mut Report, containerd: &mut Containerd<'_>) -> Result<(), Reason> {
    let ids: Vec<_> = (0..TASKS).map(|number| format!("task-{number}")).collect();
    for id in &ids {
        detached(containerd, Peer::Bulkhead(Isolation::Host), id)?;
    }
    containerd.kill();
    let begin = Instant::now();
    containerd.start();
    let running = || {
        containerd.text(&["task", "ls"]).lines().filter(|line| line.ends_with("RUNNING")).count()
    };
    while running() < TASKS {
        if begin.elapsed() > Duration::from_secs(120) {
            return Err(format!("{} of {TASKS} tasks were found", running()));
        }
    }
    let took = begin.elapsed().as_secs_f64() * 1e3;
    let how = format!(
        "containerd killed and started with {TASKS} plain containers of the shim, until `ctr task ls` has all"
    );
    report.add("containerd's restart", Unit::Milliseconds, &[took], &how);
    ids.iter().for_each(|id| containerd.remove(id));
    Ok(())
}
