"""A filter of system calls (seccomp(2)): what an agent needs none of, and what would go round the other walls.

Refused calls fail with EPERM, as for want of a right, so a library that can do without goes on.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
from collections.abc import Iterable, Iterator

from shared import linux

_SET_MODE_FILTER, _ASK_FOR_ACTION = 1, 2
_SPEC_ALLOW = 1 << 2  # else some kernels slow the whole process down
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_SET, _AND, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x54, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`; of an argument the low half comes first
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW… flag that clone(2) takes
_OTHER_ABI = 0x3FFFFFFF  # x86-64: numbers above are those of x32
_FAST_OPEN = 0x20000000  # a connection within a send, which Landlock's check of connect(2) does not see
_SOCKET_TYPE, _PLAIN_TCP = 0xF, (0, socket.IPPROTO_TCP)  # Landlock sees no connections of others, as of MPTCP
_NETLINK = 16  # resolvers ask it for addresses; macOS has no name for it
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, _NETLINK)

# name -> number on x86-64 and on ARM64. First what reaches into other processes, the kernel or another view of the
# system; then memory and queues that outlive a process, that processes of one account share, or no limit counts.
_REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "kcmp": (312, 272), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "mount_setattr": (442, 442), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142), "swapon": (167, 224),
    "acct": (163, 89), "quotactl": (179, 60), "open_by_handle_at": (304, 265),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semtimedop": (220, 192), "semctl": (66, 191), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "open_tree_attr": (467, 467),
}  # fmt: skip
# name -> number on x86-64 and on ARM64, and which arguments have to have which value: they are for the caller alone.
_OF_ITSELF = {
    "prlimit64": ((302, 261), {0: 0}), "sched_setparam": ((142, 118), {0: 0}),
    "sched_setscheduler": ((144, 119), {0: 0}), "sched_setaffinity": ((203, 122), {0: 0}),
    "sched_setattr": ((314, 274), {0: 0}), "setpriority": ((141, 140), {0: 0, 1: 0}),
    "ioprio_set": ((251, 30), {0: 1, 1: 0}),
}  # fmt: skip
_SECCOMP, _SOCKET, _LISTEN, _CLONE, _CLONE3 = (317, 277), (41, 198), (50, 201), (56, 220), (435, 435)
_SENDS = {(44, 206): 3, (46, 211): 2, (307, 269): 3}  # sendto, sendmsg, sendmmsg -> which argument has the flags
_MACHINES, _ARCHITECTURES = ("x86_64", "aarch64"), (0xC000003E, 0xC00000B7)


def available() -> bool:
    """Tells whether there is a filter for this machine, and its kernel takes filters."""
    if not linux.AVAILABLE or platform.machine() not in _MACHINES:
        return False
    try:
        linux.syscall(_SECCOMP[_machine()], _ASK_FOR_ACTION, 0, struct.pack("I", _ERRNO))
    except OSError:
        return False
    return True


class Filter:
    """A filter, made once and enforced by many.

    Args:
        program: `common()` or `without_network()`.
    """

    def __init__(self, program: Iterable[bytes]) -> None:
        code = b"".join(program)
        self._program = ctypes.create_string_buffer(code, len(code))
        # struct sock_fprog: how many instructions, and where they are.
        self._described = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(self._program))

    def enforce(self) -> None:
        """Filters what this process, which has one thread and no privileges to gain, calls, and all that it starts.

        Raises:
            OSError: the kernel refuses.
        """
        linux.syscall(_SECCOMP[_machine()], _SET_MODE_FILTER, _SPEC_ALLOW, self._described)


def common() -> Iterator[bytes]:
    """Yields the filter for all sandboxes."""
    column = _machine()
    yield _load(_ARCH)
    yield _skip_if(_JUMP_EQUAL, _ARCHITECTURES[column], 1)
    yield _refuse()  # 32-bit calls have other numbers
    yield _load(_NR)
    if column == 0:
        yield from _when(_JUMP_ABOVE, _OTHER_ABI, [_refuse()])
    for numbers in _REFUSED.values():
        yield from _when(_JUMP_EQUAL, numbers[column], [_refuse()])
    for numbers, wanted in _OF_ITSELF.values():
        tests = [line for at, value in wanted.items() for line in _unless(at, value, _refuse())]
        yield from _when(_JUMP_EQUAL, numbers[column], [*tests, _allow()])
    # Its flags are in memory, where no filter can look: libraries then take the older call.
    yield from _when(_JUMP_EQUAL, _CLONE3[column], [_refuse(errno.ENOSYS)])
    flags = [_argument(0), *_when(_JUMP_SET, _NEW_NAMESPACES, [_refuse()]), _allow()]
    yield from _when(_JUMP_EQUAL, _CLONE[column], flags)
    families = [allowed for family in _FAMILIES for allowed in _when(_JUMP_EQUAL, family, [_allow()])]
    yield from _when(_JUMP_EQUAL, _SOCKET[column], [_argument(0), *families, _refuse(errno.EACCES)])
    yield _allow()


def without_network(*, local: bool) -> Iterator[bytes]:
    """Yields the filter, besides the common one, that leaves TCP, which Landlock confines.

    Args:
        local: whether sockets of this machine, whose files Landlock does not look at, may be connected to.
    """
    column = _machine()
    yield _load(_NR)
    for numbers, position in _SENDS.items():
        fast = [_argument(position), *_when(_JUMP_SET, _FAST_OPEN, [_refuse()]), _allow()]
        yield from _when(_JUMP_EQUAL, numbers[column], fast)
    # A socket without an address gets one by this, and Landlock looks at `bind` alone.
    yield from _when(_JUMP_EQUAL, _LISTEN[column], [_refuse(errno.EACCES)])
    yield _skip_if(_JUMP_EQUAL, _SOCKET[column], 1)
    yield _allow()
    yield _argument(0)
    yield from _when(_JUMP_EQUAL, socket.AF_UNIX, [_allow() if local else _refuse(errno.EACCES)])
    yield _argument(1)
    yield struct.pack("HBBI", _AND, 0, 0, _SOCKET_TYPE)
    yield _skip_if(_JUMP_EQUAL, socket.SOCK_STREAM, 1)
    yield _refuse(errno.EACCES)
    yield _argument(2)
    for protocol in _PLAIN_TCP:
        yield from _when(_JUMP_EQUAL, protocol, [_allow()])
    yield _refuse(errno.EACCES)


def _machine() -> int:
    """Returns which of the two numbers of each call is this machine's."""
    return _MACHINES.index(platform.machine())


def _when(test: int, value: int, then: list[bytes]) -> Iterator[bytes]:
    """Yields instructions that are passed over unless the loaded word meets the test."""
    yield struct.pack("HBBI", test, 0, len(then), value)
    yield from then


def _unless(position: int, value: int, then: bytes) -> Iterator[bytes]:
    yield _argument(position)
    yield _skip_if(_JUMP_EQUAL, value, 1)
    yield then


def _skip_if(test: int, value: int, count: int) -> bytes:
    return struct.pack("HBBI", test, count, 0, value)


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", _LOAD, 0, 0, offset)


def _argument(position: int) -> bytes:
    return _load(_ARGUMENTS + 8 * position)


def _allow() -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, _ALLOW)


def _refuse(code: int = errno.EPERM) -> bytes:
    return struct.pack("HBBI", _RETURN, 0, 0, _ERRNO | code)
