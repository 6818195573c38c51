//! What a group uses.

use bulkhead_protocol::Stats;

use super::{cpu, cpuset, group::Cgroup, hugetlb, io, memory, pids};

pub(super) fn of(cgroup: &Cgroup) -> Stats {
    // Version 2 counts time without the controller, too.
    let limits = cgroup.directory("cpu").or_else(|| cgroup.directory(""));
    let cpuset = cgroup.directory("cpuset").map(cpuset::stats);
    Stats {
        cpu: cpu::stats(cgroup.directory("cpuacct"), limits),
        cpuset: cpuset.unwrap_or_default(),
        memory: cgroup.directory("memory").map(memory::stats).unwrap_or_default(),
        pids: cgroup.directory("pids").map(pids::stats).unwrap_or_default(),
        blkio: cgroup.directory("io").map(io::stats).unwrap_or_default(),
        hugetlb: cgroup.directory("hugetlb").map(hugetlb::stats).unwrap_or_default(),
    }
}
