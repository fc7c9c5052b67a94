"""Who may read, lease and write, checked with real users: an owner, a member of its group, a stranger."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from child_processes import PRELUDE, Child
from segments_under_test import path_of

OWNER, MEMBER, STRANGER = 61001, 61002, 65534
GROUP = 61000

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def root() -> None:
    assert os.geteuid() == 0, "only root can become several users"


AS_USER = (
    PRELUDE
    + """
import contextlib, fcntl, hashlib, mmap, struct, threading

def become(user, group):
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    assert os.getresuid() == (user, user, user)

user, group, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
become(user, group)

def error_of(function, *arguments, **options):
    # Type and text of what it raises.
    try:
        function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"

def refused(kind, *texts, trusted=None):
    # Everyone who opens this name is refused in the same way.
    uses = {
        "reader": lambda: SharedMemoryFrameReader(name, trusted_owners=trusted).attach(timeout=0),
        "read": lambda: SharedMemoryFrameReader(name, trusted_owners=trusted).read_frame(),
        "writer": lambda: SharedMemoryFrameWriter(name, SHAPE, trusted_owners=trusted),
        "inspect": lambda: inspect_segment(name, trusted_owners=trusted),
        "clean": lambda: remove_stale_segments([name], trusted_owners=trusted),
    }
    for use, function in uses.items():
        error = error_of(function)
        assert error.startswith(kind) and name in error, (use, error)
        assert all(text in error for text in texts), (use, error)
    assert name not in [found.name for found in list_segments(trusted_owners=trusted)]
    assert name not in remove_stale_segments(trusted_owners=trusted)
"""
)

WRITE = """
mode = int(sys.argv[4], 8)
writer = SharedMemoryFrameWriter(name, SHAPE, mode=mode)
writer.write_frame(picture(1))
say("written")
while (order := told()):
    if order == "grow":
        assert writer.write_frame(picture(writer.sequence + 1, LARGER))
        assert writer.statistics.replacements == 1
    for _ in range(1000):
        number = writer.sequence + 1
        assert writer.write_frame(picture(number)) == number
    statistics = writer.statistics
    assert (statistics.dropped, statistics.leases_broken) == (0, 0)
    say(writer.sequence, [(reader.kind, reader.pid) for reader in inspect_segment(name).readers])
writer.close()
"""


def child_of(user: int, group: int, *parts: str, name: object, argument: object = "") -> Child:
    """A process of that user, which runs the parts of its code one after another."""
    code = "\n".join(map(textwrap.dedent, parts))
    return Child(code, user, group, name, argument, prelude=AS_USER)


def run_as(user: int, group: int, *parts: str, name: object = "") -> None:
    """Run the parts of a program as that user; it has to succeed."""
    with child_of(user, group, *parts, name=name) as child:
        child.ends_well()


@contextmanager
def writer_of(name: str, mode: int) -> Iterator[Child]:
    """A writer of the owner; it writes a thousand frames when told to, and succeeds."""
    with child_of(OWNER, GROUP, WRITE, name=name, argument=f"{mode:o}") as child:
        assert child.says() == "written"
        found = path_of(name).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OWNER, GROUP, mode)
        yield child
        child.tell()
        assert child.says().startswith("1001 "), "it was not disturbed"
        child.tell("")
        child.ends_well()


def fingerprint(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return found.st_ino, found.st_uid, found.st_gid, found.st_mode, found.st_size, found.st_nlink, content


CANNOT_WRITE = """
path = path_of(name)
before = path.stat()
attempts = {
    "open": lambda: os.open(path, os.O_RDWR),
    "truncate": lambda: os.truncate(path, 0),
    "chmod": lambda: path.chmod(0o666),
    "unlink": path.unlink,
    "rename": lambda: path.rename(path.with_name(name + "-stolen")),
}
for attempt, function in attempts.items():
    error = error_of(function)
    assert error.startswith("PermissionError"), (attempt, error)
decoy = path.with_name(name + "-decoy")
decoy.write_bytes(b"mine")
assert error_of(decoy.rename, path).startswith("PermissionError")
decoy.unlink()
assert path.stat().st_ino == before.st_ino and path.stat().st_size == before.st_size
owner = before.st_uid
for trusted in (None, [owner]):
    error = error_of(SharedMemoryFrameWriter, name, SHAPE, trusted_owners=trusted)
    assert error.startswith("SegmentPermissionError") and name in error, error
    error = error_of(remove_stale_segments, [name], trusted_owners=trusted)
    assert error.startswith("SegmentPermissionError") and name in error, error
"""


# ---------------------------------------------------------------- modes


def test_0640_lets_a_group_member_observe_once_it_trusts_the_owner_and_write_nothing(segment_name: str) -> None:
    with writer_of(segment_name, 0o640):
        code = f"""
        owner = {OWNER}
        for function in (SharedMemoryFrameReader(name).attach, SharedMemoryFrameReader(name).read_frame):
            error = error_of(function)
            assert error.startswith("SegmentPermissionError"), error
            assert all(text in error for text in (name, str(owner), str(user), "trusted_owners")), error
        with SharedMemoryFrameReader(name, trusted_owners=[owner]) as reader:
            frame, metadata = new_frame(reader)
            assert sees(frame, 1) and not metadata.zero_copy and frame.flags.writeable
            (shown,) = inspect_segment(name, trusted_owners=[owner]).readers
            assert (shown.kind, shown.pid, shown.leases) == ("observer", None, 0)
            with open("/proc/self/maps") as maps:
                mapped = [line for line in maps if name in line]
            assert mapped and all(line.split()[1] == "r--s" for line in mapped), mapped
        """
        run_as(MEMBER, GROUP, code, CANNOT_WRITE, name=segment_name)
        run_as(STRANGER, STRANGER, f"refused('SegmentPermissionError', trusted=[{OWNER}])", name=segment_name)


def test_a_group_of_the_writers_own_choice_reads_also_after_a_replacement(segment_name: str) -> None:
    write = f"""
    writer = SharedMemoryFrameWriter(name, SHAPE, mode=0o640, group={GROUP})
    writer.write_frame(picture(1))
    say("written")
    told()
    writer.write_frame(picture(2, LARGER))
    say("replaced")
    told()
    """
    read = f"""
    with SharedMemoryFrameReader(name, trusted_owners=[0]) as reader:
        assert sees(new_frame(reader)[0], 1)
        say("read")
        told()
        assert sees(new_frame(reader)[0], 2)
        assert inspect_segment(name, trusted_owners=[0]).group == {GROUP}
    """
    with Child(write, prelude=PRELUDE + f"name = {segment_name!r}\n") as writer:
        assert writer.says() == "written"
        with child_of(MEMBER, GROUP, read, name=segment_name) as member:
            assert member.says() == "read"
            writer.tell()
            assert writer.says() == "replaced"
            member.tell()
            member.ends_well()
        run_as(STRANGER, STRANGER, "refused('SegmentPermissionError', 'mode', 'group', trusted=[0])", name=segment_name)
        writer.tell()
        writer.ends_well()


def test_a_group_that_the_writer_is_not_in_is_an_error_and_leaves_nothing(segment_name: str) -> None:
    code = f"""
    error = error_of(SharedMemoryFrameWriter, name, SHAPE, mode=0o640, group={GROUP})
    assert error.startswith("SegmentPermissionError") and "{GROUP}" in error and name in error, error
    error = error_of(SharedMemoryFrameWriter, name, SHAPE, group="no-such-group")
    assert error.startswith("ValueError") and "no-such-group" in error, error
    """
    run_as(STRANGER, STRANGER, code, name=segment_name)


LIST = """
import os, sys
from billiards_shm.cli.main import run
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(run(["list"]))
"""


def test_list_counts_the_files_that_it_may_not_read(segment_name: str) -> None:
    with writer_of(segment_name, 0o600), writer_of(f"{segment_name}-b", 0o644):
        done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert segment_name not in done.stdout
    # Other tests have segments too.
    assert int(re.findall(r"not shown: (\d+) files", done.stderr)[0]) >= 2
    assert "'billiards-shm inspect NAME' shows why" in done.stderr


def test_0600_keeps_everybody_else_out(segment_name: str) -> None:
    with writer_of(segment_name, 0o600):
        for user, group in ((MEMBER, GROUP), (STRANGER, STRANGER)):
            refusal = f"refused('SegmentPermissionError', trusted=[{OWNER}])"
            run_as(user, group, refusal, CANNOT_WRITE, name=segment_name)


def test_0660_lets_a_group_member_lease_and_nobody_else_in(segment_name: str) -> None:
    code = f"""
    with SharedMemoryFrameReader(name, trusted_owners=[{OWNER}]) as reader:
        view, metadata = new_frame(reader)
        assert metadata.zero_copy and not view.flags.writeable
        (shown,) = inspect_segment(name, trusted_owners=[{OWNER}]).readers
        assert (shown.kind, shown.pid, shown.leases) == ("lease", os.getpid(), 1)
        say("held")
        told()
        assert sees(view, 1), "pinned, whichever user it is"
        assert sees(new_frame(reader)[0], 1001)
    """
    with (
        child_of(OWNER, GROUP, WRITE, name=segment_name, argument="660") as writer,
        child_of(MEMBER, GROUP, "told()", code, name=segment_name) as member,
    ):
        assert writer.says() == "written"
        member.tell()
        assert member.says() == "held"
        run_as(STRANGER, STRANGER, f"refused('SegmentPermissionError', trusted=[{OWNER}])", name=segment_name)
        writer.tell()
        assert writer.says() == f"1001 {[('lease', member.pid)]}"
        member.tell()
        member.ends_well()
        writer.tell("")
        writer.ends_well()


def test_the_mode_and_not_the_readers_wish_decides_whether_it_leases(segment_name: str) -> None:
    """Proof that it can fail: the same reader, with the same code, and a mode that allows it."""
    code = f"""
    with SharedMemoryFrameReader(name, trusted_owners=[{OWNER}]) as reader:
        print(new_frame(reader)[1].zero_copy)
    """
    kinds = {}
    for mode in (0o640, 0o660):
        with writer_of(segment_name, mode), child_of(MEMBER, GROUP, code, name=segment_name) as child:
            kinds[mode] = child.says()
            child.ends_well()
    assert kinds == {0o640: "False", 0o660: "True"}


# ---------------------------------------------------------------- observers


def test_an_observer_cannot_disturb_the_writer_whatever_it_does_with_its_file(segment_name: str) -> None:
    code = f"""
    import ctypes, errno
    file = os.open(path_of(name), os.O_RDONLY)
    held = mmap.mmap(file, 0, prot=mmap.PROT_READ)
    refusals = {{
        "map": lambda: mmap.mmap(file, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        "write": lambda: os.pwrite(file, b"x", 256),
        "truncate": lambda: os.ftruncate(file, 0),
        "allocate": lambda: os.posix_fallocate(file, 0, 4096),
        "chmod": lambda: os.fchmod(file, 0o666),
        "reopen": lambda: os.open(f"/proc/self/fd/{{file}}", os.O_RDWR),
        "signal": lambda: os.kill(int(sys.argv[4]), signal.SIGSTOP),
        "write lock": lambda: fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)),
    }}
    for refusal, function in refusals.items():
        assert error_of(function) != "nothing", refusal
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    address = libc.mmap(None, 65536, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    assert libc.mprotect(address, 65536, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    fcntl.flock(file, fcntl.LOCK_SH)
    fcntl.fcntl(file, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0x4000000000001000, 0, 0))  # every token and reader
    reader = SharedMemoryFrameReader(name, trusted_owners=[{OWNER}])
    assert sees(new_frame(reader)[0], 1)
    say("done all it can")
    told()
    assert reader.status is SegmentStatus.LIVE
    say("still reads", new_frame(reader)[1].sequence)
    told()
    """
    with (
        child_of(OWNER, GROUP, WRITE, name=segment_name, argument="640") as writer,
        child_of(MEMBER, GROUP, "told()", code, name=segment_name, argument=writer.pid) as observer,
    ):
        assert writer.says() == "written"
        observer.tell()
        assert observer.says() == "done all it can"
        witness = """
        with SharedMemoryFrameReader(name) as reader:
            assert sees(new_frame(reader)[0], 1), "a copy, for the observer sits on every token"
        """
        run_as(OWNER, GROUP, witness, name=segment_name)
        writer.tell()
        assert writer.says().startswith("1001 ")
        observer.tell()
        assert observer.says() == "still reads 1001"
        writer.tell("grow")
        assert writer.says().startswith("2002 "), "a successor is made without a lock that an observer could hold"
        writer.tell("")
        writer.ends_well()


# ---------------------------------------------------------------- names that belong to others


@pytest.mark.parametrize("life", ["living", "dead"])
@pytest.mark.parametrize("mode", [0o666, 0o600])
def test_a_segment_that_a_stranger_put_under_the_name_is_refused_by_everyone_and_left_alone(
    segment_name: str, life: str, mode: int
) -> None:
    with child_of(STRANGER, STRANGER, WRITE, name=segment_name, argument=f"{mode:o}") as squatter:
        assert squatter.says() == "written"
        if life == "dead":
            squatter.kill()
        before = fingerprint(path_of(segment_name))
        texts = (str(STRANGER), "trusted_owners") if mode == 0o666 else ()
        run_as(OWNER, GROUP, f"refused('SegmentPermissionError', *{texts!r})", name=segment_name)
        assert fingerprint(path_of(segment_name)) == before
    path_of(segment_name).unlink()


def test_a_file_that_a_stranger_put_under_the_name_is_refused_by_everyone_and_left_alone(segment_name: str) -> None:
    path = path_of(segment_name)
    path.write_bytes(b"BILLISHM" + bytes(200_000))
    path.chmod(0o666)
    os.chown(path, STRANGER, STRANGER)
    before = fingerprint(path)
    run_as(OWNER, GROUP, f"refused('SegmentPermissionError', '{STRANGER}', 'trusted_owners')", name=segment_name)
    assert fingerprint(path) == before
    path.unlink()


def test_a_dead_segment_of_a_trusted_user_is_read_and_its_name_is_never_silently_taken(segment_name: str) -> None:
    """Shared memory is a sticky directory: only root can replace or remove another user's files."""
    with child_of(MEMBER, GROUP, WRITE, name=segment_name, argument="666") as former:
        assert former.says() == "written"
        former.kill()
    before = fingerprint(path_of(segment_name))
    code = f"""
    trusted = [{MEMBER}]
    with SharedMemoryFrameReader(name, trusted_owners=trusted) as reader:
        assert sees(new_frame(reader)[0], 1) and reader.status is SegmentStatus.DEAD
    error = error_of(SharedMemoryFrameWriter, name, SHAPE, trusted_owners=trusted)
    assert error.startswith("SegmentPermissionError") and name in error, error
    error = error_of(remove_stale_segments, [name], trusted_owners=trusted)
    assert error.startswith("SegmentPermissionError") and name in error, error
    """
    run_as(OWNER, GROUP, code, name=segment_name)
    after = fingerprint(path_of(segment_name))
    assert after[:-1] == before[:-1], "readers pin and go; the object is the same"
    run_as(0, 0, f"assert remove_stale_segments([name], trusted_owners=[{MEMBER}]) == [name]", name=segment_name)


# ---------------------------------------------------------------- symbolic links


@pytest.fixture
def commons(segment_name: str) -> Iterator[Path]:
    """A directory in which everyone may create files, like shared memory itself."""
    path = path_of(segment_name + "-commons")
    path.mkdir()
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize("to", ["living", "dead", "file", "nothing"])
@pytest.mark.parametrize("kind", ["name", "path"])
def test_a_link_under_the_name_is_followed_by_nobody(segment_name: str, commons: Path, to: str, kind: str) -> None:
    """A stranger's link to a file that the owner could read and write."""
    target = commons / "target"
    link = path_of(segment_name) if kind == "name" else commons / "link"
    with child_of(OWNER, GROUP, WRITE, name=target, argument="600") as child:
        assert child.says() == "written"
        if to != "living":
            child.kill()
        if to in ("file", "nothing"):
            target.unlink()
        if to == "file":
            target.write_bytes(b"worth keeping")
            os.chown(target, OWNER, GROUP)
        run_as(STRANGER, STRANGER, f"os.symlink({str(target)!r}, {str(link)!r})")
        before = fingerprint(target) if to != "nothing" else None
        run_as(
            OWNER, GROUP, "refused('SegmentFormatError', 'symbolic link')", name=link if kind == "path" else link.name
        )
        assert link.is_symlink()
        assert (fingerprint(target) if target.exists() else None) == before
    link.unlink()


# The names of temporaries are random; with this they are not, so someone else can get there first.
NO_RANDOMNESS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>

#define OPEN(name)                                                                                             \\
    int name(const char *path, int flags, ...)                                                                 \\
    {                                                                                                          \\
        int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);        \\
        __builtin_va_list rest;                                                                                \\
        __builtin_va_start(rest, flags);                                                                       \\
        int mode = flags & O_CREAT ? __builtin_va_arg(rest, int) : 0;                                          \\
        __builtin_va_end(rest);                                                                                \\
        return next(strcmp(path, "/dev/urandom") == 0 ? "/dev/zero" : path, flags, mode);                      \\
    }
OPEN(open)
OPEN(open64)
"""


# As soon as others may read an object, one of them puts a read lock on its writer's byte.
QUICK_OBSERVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

int fchmod(int file, mode_t mode)
{
    int (*next)(int, mode_t) = (int (*)(int, mode_t))dlsym(RTLD_NEXT, "fchmod");
    struct flock lock = {.l_type = F_RDLCK, .l_start = 0x4000000000000000, .l_len = 1};
    char path[64];
    int result = next(file, mode);
    if (mode & 077) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        (void)!fcntl(open(path, O_RDONLY), F_OFD_SETLK, &lock);
        fprintf(stderr, "observed");
    }
    return result;
}
"""


def preload(monkeypatch: pytest.MonkeyPatch, directory: Path, code: str) -> None:
    """Put `code` between the C library and all processes started from now on."""
    source, library = directory / "preload.c", directory / "preload.so"
    source.write_text(code)
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))


@pytest.mark.parametrize("occasion", ["create", "grow"])
def test_an_observer_that_waits_for_temporaries_cannot_keep_a_writer_from_starting_or_growing(
    segment_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, occasion: str
) -> None:
    preload(monkeypatch, tmp_path, QUICK_OBSERVER)
    code = """
    def write():
        with SharedMemoryFrameWriter(name, SHAPE, mode=0o640) as writer:
            assert writer.write_frame(picture(1)) == 1
            if sys.argv[4] == "grow":
                assert writer.write_frame(picture(2, LARGER)) == 2
    say(error_of(write))
    """
    with child_of(OWNER, GROUP, code, name=segment_name, argument=occasion) as child:
        assert child.says() == "nothing"
        assert child.ends() == 0
        assert child.stderr == "observed" * (1 + (occasion == "grow"))


@pytest.mark.parametrize("what", ["link", "file", "free"])
def test_a_temporary_whose_name_was_guessed_is_neither_followed_nor_used(
    commons: Path, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = commons / "precious"
    precious.write_bytes(b"worth keeping")
    os.chown(precious, OWNER, GROUP)
    guessed = commons / f".bshm-{0:016x}~"
    if what == "link":
        run_as(STRANGER, STRANGER, f"os.symlink({str(precious)!r}, {str(guessed)!r})")
    elif what == "file":
        run_as(STRANGER, STRANGER, f"open({str(guessed)!r}, 'w').close(); os.chmod({str(guessed)!r}, 0o666)")
    before = fingerprint(precious)
    squatted = guessed.lstat() if what != "free" else None
    preload(monkeypatch, tmp_path, NO_RANDOMNESS)
    code = """
    def write():
        with SharedMemoryFrameWriter(name, SHAPE) as writer:
            raise ValueError(f"written to {writer.generation}")
    say(error_of(write))
    """
    with child_of(OWNER, GROUP, code, name=commons / "segment") as child:
        said = child.says()
        child.ends_well()
    assert fingerprint(precious) == before
    if squatted:
        assert said.startswith("SegmentSystemError")
        assert str(guessed) in said
        assert guessed.lstat()[:8] == squatted[:8]
    else:
        assert said == f"ValueError: written to {0:032x}", "without a second writer it works, and nothing was random"


def test_a_name_that_is_a_link_at_one_moment_and_a_file_at_the_next_is_never_followed(commons: Path) -> None:
    """It is checked, found to be a file, replaced by a link, then opened: opening has to refuse it."""
    target = commons / "target"
    name = commons / "segment"
    exchange = f"""
    link, file = {str(commons / "link")!r}, {str(commons / "file")!r}
    say("exchanging")
    while True:
        os.symlink({str(target)!r}, link)
        os.rename(link, name)
        open(file, "w").close()
        os.chmod(file, 0o666)
        os.rename(file, name)
    """
    look = """
    followed = refusals = naive = 0
    until = time.monotonic() + 10
    while (refusals < 3000 or not naive) and time.monotonic() < until:
        with contextlib.suppress(OSError):
            # What would happen without care: proof that it can fail.
            if not os.path.islink(name):
                file = os.open(name, os.O_RDONLY)
                naive += os.pread(file, 8, 0) == b"BILLISHM"
                os.close(file)
        try:
            SharedMemoryFrameReader(name, trusted_owners=[65534]).attach(timeout=0)
            followed += 1
        except (SegmentFormatError, SegmentNotFoundError):
            refusals += 1
    say(followed, refusals, naive)
    """
    with child_of(OWNER, GROUP, WRITE, name=target, argument="600") as owner:
        assert owner.says() == "written"
        with (
            child_of(STRANGER, STRANGER, exchange, name=name) as stranger,
            child_of(OWNER, GROUP, "told()", look, name=name) as looker,
        ):
            assert stranger.says() == "exchanging"
            looker.tell()
            followed, refusals, naive = map(int, looker.says().split())
        assert followed == 0
        assert refusals > 100
        assert naive > 0, "the exchange was never in time for anybody"
        print(f"{refusals} refusals, followed {followed} times; a careless reader, {naive} times")
        owner.tell("")
        owner.ends_well()
