"""What the kernel is asked to keep from a program, in the process that will run it. Standard library only; Linux.

`tasks.sandbox_child` calls `seal` once in the sandbox and `confine` in every child. Where the kernel gives less
(macOS, a processor that is not listed) `confine` says so, and the walled levels do not start.
"""

import contextlib
import ctypes
import functools
import os
import platform
import resource
import signal
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
CAPABILITIES_3 = 0x20080522
NOBODY = 65534
MS_RDONLY, MS_BIND, MS_REC, MS_NOSUID, MS_NODEV = 1, 4096, 16384, 2, 4
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""By machine: seccomp's number for it (linux/audit.h), and which column of `ALLOWED` is its own."""
ALLOWED = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 lseek:8:62 close:3:57 close_range:436:436
open:2: openat:257:56 access:21: faccessat:269:48 faccessat2:439:439 stat:4: lstat:6: newfstatat:262:79 fstat:5:80
statx:332:291 statfs:137:43 fstatfs:138:44 getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 readlink:89:
readlinkat:267:78 dup:32:23 dup2:33: dup3:292:24 pipe:22: pipe2:293:59 fcntl:72:25 ioctl:16:29 select:23:
pselect6:270:72 poll:7: ppoll:271:73 epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232: epoll_pwait:281:22
eventfd2:290:19 mmap:9:222 munmap:11:215 mremap:25:216 mprotect:10:226 madvise:28:233 brk:12:214 membarrier:324:283
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigsuspend:130:133
rt_sigtimedwait:128:137 sigaltstack:131:132 restart_syscall:219:128 pause:34: alarm:37: getitimer:36:102
setitimer:38:103 nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114
gettimeofday:96:169 time:201: times:100:153 getpid:39:172 getppid:110:173 gettid:186:178 getpgrp:111: getpgid:121:155
getsid:124:156 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150
getgroups:115:158 umask:95:166 uname:63:160 sysinfo:99:179 getrusage:98:165 getrlimit:97:163 setrlimit:160:164
prlimit64:302:261 getpriority:140:141 sched_yield:24:124 sched_getaffinity:204:123 getcpu:309:168 futex:202:98
set_tid_address:218:96 set_robust_list:273:99 rseq:334:293 wait4:61:260 waitid:247:95 exit:60:93 exit_group:231:94
getrandom:318:278 socketpair:53:199 sendto:44:206 recvfrom:45:207 shutdown:48:210 getsockname:51:204
getpeername:52:205 getsockopt:55:209 kill:62:129 tgkill:234:131
"""
"""System calls that a program may make, with their numbers (name:x86_64:aarch64, from Linux' unistd.h). Whatever is not
here fails with EPERM: processes and threads, sockets, signals to others, ptrace, mounts, and every change of a path."""
EXACT = {
    "ioctl": (1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),  # is it a terminal, how wide, how much to read …
    "fcntl": (1, (0, 1, 2, 3, 4, 1030)),  # duplicate, flags; no locks, no leases
    "prlimit64": (0, (0,)),  # of itself only
}
"""Calls that are allowed only with one of these values as this argument."""
WITHOUT = {"socketpair": (1, 0xE)}
"""Calls that are refused where this argument has one of these bits: a pair of datagram sockets can write to others."""
WRITING = {"open": (1, 0o1103), "openat": (2, 0o1103)}
"""The same, for opening files to write, create or empty them (O_ACCMODE, O_CREAT, O_TRUNC)."""


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, more: int = 0) -> bool:
    """Set a Linux process attribute; whether it is set."""
    if sys.platform != "linux":
        return False
    return bool(libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(more), 0, 0) == 0)


def hide_memory() -> None:
    """Let no other process without privileges read this one's memory and descriptors, or write to them."""
    prctl(PR_SET_DUMPABLE, 0)


def seal(hidden: list[str], kept: list[str]) -> bool:
    """In a mount namespace of one's own: empty the `hidden` folders but for what is `kept`, make all of it read-only.

    False where the kernel is too old (before 5.12) to make it read-only. Raises OSError where it refuses.
    """
    opened = {path: os.open(path, os.O_PATH) for path in kept}
    for folder in hidden:
        mount(b"tmpfs", folder, b"tmpfs", MS_NOSUID | MS_NODEV)
    for path, descriptor in opened.items():
        os.makedirs(path, exist_ok=True)  # noqa: PTH103
        os.fchdir(descriptor)
        mount(b".", path, None, MS_BIND | MS_REC)
        os.close(descriptor)
    os.chdir("/")
    attributes = struct.pack("=QQQQ", MS_RDONLY, 0, 0, 0)
    return bool(libc().syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes)) == 0)


def mount(source: bytes, target: str, kind: bytes | None, flags: int) -> None:
    """mount(2). Raises OSError where the kernel refuses."""
    if libc().mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), None) != 0:
        raise OSError(ctypes.get_errno(), f"{target} cannot be mounted over")


def confine(seconds: float, memory_bytes: int, frozen: bool) -> bool:
    """Bound this process, take its privileges away, and refuse it what no program of a benchmark needs.

    `frozen`: the file system is read-only, so that files may be opened for writing (in vain; /dev/null takes it).
    Whether the kernel does all of it. This module is of no use afterwards: a program must find no ctypes.
    """
    limit(seconds, memory_bytes)
    give_up_privileges()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    hide_memory()
    done = prctl(PR_SET_NO_NEW_PRIVS, 1) and filter_calls(frozen)
    for name in [name for name in sys.modules if name.startswith(("ctypes", "_ctypes", __name__))]:
        del sys.modules[name]
    globals().clear()
    return done


def limit(seconds: float, memory_bytes: int) -> None:
    """Bound CPU time, address space, processes, file size, open files and core dumps of this process."""
    limits = {
        "RLIMIT_CPU": int(seconds) + 1,
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_NPROC": 0,  # the kernel exempts root
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": 64,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some
            resource.setrlimit(getattr(resource, name), (value, value))


def give_up_privileges() -> None:
    """Drop all capabilities; as root also become a user that owns nothing, where that one can read Python's files."""
    if sys.platform != "linux":
        return
    for capability in range(64):
        prctl(PR_CAPBSET_DROP, capability)
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    if os.geteuid() == 0 and _readable_by_all(os.__file__):
        with contextlib.suppress(OSError):  # in a user namespace there may be one user only
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
    libc().capset(struct.pack("=Ii", CAPABILITIES_3, 0), struct.pack("=6I", *[0] * 6))


def _readable_by_all(path: str) -> bool:
    folder = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    while folder != "/":
        if os.stat(folder).st_mode & 0o5 != 0o5:  # noqa: PTH116
            return False
        folder = os.path.dirname(folder)  # noqa: PTH120
    return True


def filter_calls(frozen: bool) -> bool:
    """Have the kernel refuse every system call that is not allowed; whether it does."""
    architecture, column = ARCHITECTURES.get(platform.machine(), (0, 0))
    if not architecture:
        return False
    numbers = {name: found[column] for name, *found in (line.split(":") for line in ALLOWED.split())}
    code = calls_program(architecture, {name: int(n) for name, n in numbers.items() if n}, frozen)
    buffer = ctypes.create_string_buffer(code, len(code))
    filters = ctypes.create_string_buffer(struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(buffer)))
    return prctl(PR_SET_SECCOMP, 2, ctypes.addressof(filters))


def calls_program(architecture: int, numbers: dict[str, int], frozen: bool) -> bytes:
    """The seccomp filter, in classic BPF (linux/filter.h, linux/seccomp.h): a jump per call, else EPERM."""
    load, equal, bits, give = 0x20, 0x15, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    exact = EXACT | {"kill": (0, (os.getpid(),)), "tgkill": (0, (os.getpid(),))}
    without = WITHOUT | ({} if frozen else WRITING)
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    for name, number in numbers.items():
        rest = [(give, 0, 0, allow)]
        if name in exact:
            place, values = exact[name]
            rest = [(load, 0, 0, 16 + 8 * place)]
            rest += [(equal, len(values) - index, 0, value) for index, value in enumerate(values)]
            rest += [(give, 0, 0, refuse), (give, 0, 0, allow)]
        elif name in without:
            place, mask = without[name]
            rest = [(load, 0, 0, 16 + 8 * place), (bits, 0, 1, mask), (give, 0, 0, refuse), (give, 0, 0, allow)]
        steps += [(equal, 0, len(rest), number), *rest]
    steps.append((give, 0, 0, refuse))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
