"""The filter of system calls in the sandbox: a program for the kernel that refuses those which ordinary programs do not need.

It refuses what reaches other processes, mounts, new namespaces, kernel facilities with a history of faults, memory that no limit counts, and sockets of
families that network namespaces do not separate.
"""

import platform
import struct

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NR, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
NAMESPACES = 0x7E020080
"""Flags of `clone` for new namespaces: cgroup, IPC, network, mounts, PIDs, time, users and host name."""
FAMILIES = (1, 2, 10, 16)
"""Socket families that are allowed: Unix, IPv4, IPv6, netlink."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

_MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {"clone": 56, "clone3": 435, "socket": 41, "socketpair": 53, "ioctl": 16}),
    "aarch64": (0xC00000B7, {"clone": 220, "clone3": 435, "socket": 198, "socketpair": 199, "ioctl": 29}),
}
_EVERYWHERE = {
    *(425, 426, 427),  # io_uring
    *(428, 429, 430, 431, 432, 433, 442),  # mounts
    *(438, 443, 447),  # pidfd_getfd, quotactl_fd, memfd_secret
}
_REFUSED: dict[str, set[int]] = {
    "x86_64": {
        *(101, 310, 311, 312),  # ptrace, memory of other processes, kcmp
        *(161, 165, 166, 155, 272, 308),  # chroot, mounts, unshare, setns
        *(321, 298, 323, 248, 249, 250),  # bpf, perf, userfaultfd, keys
        *(246, 320, 175, 313, 176, 169, 167, 168, 163, 103, 172, 173, 134, 153, 154, 139, 212),  # the machine
        *(303, 304, 300, 279, 179, 159, 164, 227, 305),  # file handles, fanotify, pages, quotas, clocks
        *(
            29,
            30,
            31,
            64,
            68,
            69,
            70,
            71,
            66,
            65,
            220,
            240,
            241,
            242,
            243,
            244,
            245,
        ),  # System V and message queues
    },
    "aarch64": {
        *(117, 270, 271, 272),
        *(51, 40, 39, 41, 97, 268),
        *(280, 241, 282, 217, 218, 219),
        *(104, 294, 105, 273, 106, 142, 224, 225, 89, 116, 18),
        *(264, 265, 262, 239, 60, 171, 170, 112, 266),
        *(180, 181, 182, 183, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197),
    },
}
_NO_SUCH_CALL = {"x86_64": 319, "aarch64": 279}
"""memfd_create: programs take a file instead when the kernel has no such call."""


def filter_program(machine: str = "") -> bytes | None:
    """The program for bubblewrap's `--seccomp`; None for a processor that it is not written for."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        return None
    arch, calls = _MACHINES[machine]
    program = [_op(_LOAD, _ARCH), _op(_JEQ, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NR)]
    # calls of the other numbering of the same processor
    program += [_op(_JGE, 0x40000000, 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    for number in sorted(_REFUSED[machine] | _EVERYWHERE):
        program += [_op(_JEQ, number, 0, 1), _op(_RETURN, _ERRNO | _EPERM)]
    # its flags cannot be read here: the C library falls back to clone
    for number in (calls["clone3"], _NO_SUCH_CALL[machine]):
        program += [_op(_JEQ, number, 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    program += [
        *(_op(_JEQ, calls["clone"], 0, 4), _op(_LOAD, _ARG0), _op(_JSET, NAMESPACES, 0, 1)),
        *(_op(_RETURN, _ERRNO | _EPERM), _op(_RETURN, _ALLOW)),
        *(_op(_JEQ, calls["ioctl"], 0, 5), _op(_LOAD, _ARG1), _op(_JEQ, _TIOCSTI, 1, 0)),
        *(_op(_JEQ, _TIOCLINUX, 0, 1), _op(_RETURN, _ERRNO | _EPERM), _op(_RETURN, _ALLOW)),
        *(_op(_JEQ, calls["socket"], 1, 0), _op(_JEQ, calls["socketpair"], 0, 6), _op(_LOAD, _ARG0)),
        *(_op(_JEQ, family, 4 - place, 0) for place, family in enumerate(FAMILIES)),
        _op(_RETURN, _ERRNO | _EAFNOSUPPORT),
        _op(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
