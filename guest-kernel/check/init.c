// SPDX-License-Identifier: Apache-2.0
/*
 * The init of a guest that checks that its kernel has what containers need, one line for each thing that is missing.
 * run.sh builds it, boots it and reads its last line. Disks: /dev/vda an EROFS image, /dev/vdb an ext4 one.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int missing, checks;

static void check(int ok, const char *what)
{
	checks++;
	if (!ok) {
		missing++;
		printf("missing: %s (%s)\n", what, strerror(errno));
	}
}

static int make_and_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{
	mkdir(target, 0755);
	return mount(source, target, type, flags, data);
}

static int file_has(const char *path, const char *word)
{
	static char text[65536];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	close(fd);
	if (n < 0)
		return 0;
	text[n] = 0;
	return strstr(text, word) != NULL;
}

static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return ok;
}

/* Does the child, made with these clone flags, end with code 0? */
static int child_ends_well(int (*run)(void *), int flags)
{
	static char stack[65536];
	int status = -1;
	pid_t pid = clone(run, stack + sizeof(stack), flags | SIGCHLD, NULL);

	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static int nothing(void *unused)
{
	return 0;
}

static int behind_a_filter(void *unused)
{
	struct sock_filter refuse_getppid[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { 4, refuse_getppid };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
		return 1;
	return syscall(SYS_getppid) != -1 || errno != ENOTTY;
}

/* A BPF program that refuses every device, attached to a control group. */
static int device_program(const char *group)
{
	struct bpf_insn refuse[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = { .prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = 2 };
	union bpf_attr attach = { .attach_type = BPF_CGROUP_DEVICE };

	load.insns = (unsigned long)refuse;
	load.license = (unsigned long)"GPL";
	attach.target_fd = open(group, O_RDONLY | O_DIRECTORY);
	attach.attach_bpf_fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	return syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach)) == 0;
}

static void check_file_systems(void)
{
	static const char *const types[] = { "ext4", "erofs", "overlay", "fuse", "virtiofs", "tmpfs", "devtmpfs", "cgroup2", "mqueue", "devpts", "bpf" };
	char value[64];

	check(make_and_mount("none", "/dev", "devtmpfs", 0, NULL) == 0, "devtmpfs");
	for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++)
		check(file_has("/proc/filesystems", types[i]), types[i]);
	check(make_and_mount("none", "/tmp", "tmpfs", 0, NULL) == 0, "a tmpfs mount");
	check(setxattr("/tmp", "trusted.check", "1", 1, 0) == 0, "extended attributes on tmpfs");
	check(make_and_mount("none", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666") == 0, "devpts");
	check(open("/dev/pts/ptmx", O_RDWR) >= 0, "a pseudo terminal");
	check(make_and_mount("none", "/dev/mqueue", "mqueue", 0, NULL) == 0, "mqueue");
	check(make_and_mount("/dev/vda", "/lower", "erofs", MS_RDONLY, NULL) == 0, "an EROFS mount");
	check(getxattr("/lower/file", "user.check", value, sizeof(value)) == 5, "extended attributes on EROFS");
	check(make_and_mount("/dev/vdb", "/disk", "ext4", 0, "acl") == 0, "an ext4 mount");
	check(setxattr("/disk", "user.check", "1", 1, 0) == 0, "extended attributes on ext4");
	check(mkdir("/disk/upper", 0755) == 0 && mkdir("/disk/work", 0755) == 0, "a writable disk");
	check(make_and_mount("overlay", "/union", "overlay", 0, "lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work") == 0, "an overlay mount");
	check(rename("/union/file", "/union/renamed") == 0, "a change of the overlay");
}

static void check_control_groups(void)
{
	static const char *const files[] = { "cpu.max", "memory.max", "pids.max", "io.max", "cpuset.cpus", "cgroup.freeze" };
	char path[64];

	check(mount("none", "/sys/fs/cgroup", "cgroup2", 0, NULL) == 0, "cgroup v2");
	check(write_to("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids +io +cpuset"), "the controllers");
	check(mkdir("/sys/fs/cgroup/check", 0755) == 0, "a control group");
	for (unsigned i = 0; i < sizeof(files) / sizeof(*files); i++) {
		snprintf(path, sizeof(path), "/sys/fs/cgroup/check/%s", files[i]);
		check(access(path, F_OK) == 0, files[i]);
	}
	check(write_to("/sys/fs/cgroup/check/cpu.max", "50000 100000"), "a CPU limit");
	check(write_to("/sys/fs/cgroup/check/memory.max", "16777216"), "a memory limit");
	check(device_program("/sys/fs/cgroup/check"), "a BPF device program");
}

static void check_namespaces_and_sockets(void)
{
	static const struct { int flag; const char *name; } spaces[] = {
		{ CLONE_NEWUSER, "user namespace" }, { CLONE_NEWNET, "net namespace" }, { CLONE_NEWIPC, "ipc namespace" },
		{ CLONE_NEWPID, "pid namespace" }, { CLONE_NEWNS, "mount namespace" }, { CLONE_NEWUTS, "uts namespace" },
		{ CLONE_NEWCGROUP, "cgroup namespace" },
	};
	static const struct { int family, type, protocol; const char *name; } sockets[] = {
		{ AF_UNIX, SOCK_SEQPACKET, 0, "Unix socket" }, { AF_INET, SOCK_STREAM, 0, "TCP" },
		{ AF_INET6, SOCK_DGRAM, 0, "UDP over IPv6" }, { AF_INET, SOCK_RAW, IPPROTO_ICMP, "raw socket" },
		{ AF_PACKET, SOCK_DGRAM, 0, "packet socket" }, { AF_NETLINK, SOCK_RAW, 0, "netlink" },
		{ AF_VSOCK, SOCK_STREAM, 0, "vsock" },
	};

	for (unsigned i = 0; i < sizeof(spaces) / sizeof(*spaces); i++)
		check(child_ends_well(nothing, spaces[i].flag), spaces[i].name);
	check(access("/proc/self/ns/time", F_OK) == 0, "time namespace");
	for (unsigned i = 0; i < sizeof(sockets) / sizeof(*sockets); i++)
		check(socket(sockets[i].family, sockets[i].type, sockets[i].protocol) >= 0, sockets[i].name);
}

static void check_calls(void)
{
	struct io_uring_params ring = { 0 };
	struct flock lock = { .l_type = F_WRLCK };
	struct sembuf up = { .sem_op = 1 };
	aio_context_t aio = 0;
	sigset_t set;
	char from[8] = "copied", to[8] = "";
	struct iovec local = { to, 8 }, remote = { from, 8 };
	int fd = open("/tmp/file", O_RDWR | O_CREAT, 0600);
	int semaphore = semget(IPC_PRIVATE, 1, 0600);

	sigemptyset(&set);
	check(flock(fd, LOCK_EX) == 0, "flock");
	check(fcntl(fd, F_SETLK, &lock) == 0, "POSIX locks");
	check(setxattr("/tmp/file", "system.posix_acl_access", "\2\0\0\0\1\0\6\0\377\377\377\377\4\0\4\0\377\377\377\377\40\0\4\0\377\377\377\377", 28, 0) == 0, "ACLs on tmpfs");
	check(syscall(SYS_io_uring_setup, 4, &ring) >= 0, "io_uring");
	check(syscall(SYS_io_setup, 4, &aio) == 0, "AIO");
	check(syscall(SYS_memfd_create, "check", 0) >= 0, "memfd");
	check(syscall(SYS_pidfd_open, getpid(), 0) >= 0, "pidfd");
	check(syscall(SYS_membarrier, 0, 0, 0) > 0, "membarrier");
	check(syscall(SYS_getrandom, to, 8, 1) == 8, "random numbers without waiting");
	check(syscall(SYS_process_vm_readv, getpid(), &local, 1, &remote, 1, 0) == 8, "process_vm_readv");
	check(epoll_create1(0) >= 0 && eventfd(0, 0) >= 0 && signalfd(-1, &set, 0) >= 0, "epoll, eventfd, signalfd");
	check(inotify_init1(0) >= 0, "inotify");
	check(fanotify_init(FAN_CLASS_NOTIF, 0) >= 0, "fanotify");
	check(mq_open("/check", O_RDWR | O_CREAT, 0600, NULL) >= 0, "POSIX message queues");
	check(semaphore >= 0 && semop(semaphore, &up, 1) == 0 && shmget(IPC_PRIVATE, 4096, 0600) >= 0 && msgget(IPC_PRIVATE, 0600) >= 0, "SysV IPC");
	check(child_ends_well(behind_a_filter, 0), "a seccomp filter");
	check(access("/dev/hwrng", F_OK) == 0 && access("/dev/fuse", F_OK) == 0, "hwrng and fuse devices");
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* A 5 ms timer must fire after 5 ms, not at the next of the 25 ticks of a second by chance: see that resolution is high. */
static void check_time(void)
{
	struct itimerspec in_5ms = { .it_value.tv_nsec = 5000000 };
	struct timespec resolution = { 1, 0 };
	struct sigevent event = { .sigev_notify = SIGEV_NONE };
	unsigned long long expirations = 0;
	timer_t timer;
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	double start = now();

	check(timerfd_settime(fd, 0, &in_5ms, NULL) == 0 && read(fd, &expirations, 8) == 8 && now() - start >= 0.005, "timerfd");
	check(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "POSIX timers");
	check(clock_getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_nsec == 1, "high-resolution timers");
}

int main(int argc, char **argv)
{
	const char *cpus = getenv("CHECK_CPUS");
	int console;

	check(make_and_mount("none", "/proc", "proc", 0, NULL) == 0, "procfs");
	check(make_and_mount("none", "/sys", "sysfs", 0, NULL) == 0, "sysfs");
	check_file_systems();
	console = open("/dev/console", O_WRONLY);
	dup2(console, 1);
	check_control_groups();
	check_namespaces_and_sockets();
	check_calls();
	check_time();
	check(!cpus || sysconf(_SC_NPROCESSORS_ONLN) == atoi(cpus), "the other CPUs");
	printf("guest kernel check: %d of %d missing\n", missing, checks);
	fflush(stdout);
	tcdrain(1);
	umount("/union");
	umount("/disk");
	reboot(RB_POWER_OFF);
	return 1;
}
