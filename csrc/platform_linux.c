/* platform_linux.c - Linux 3.15 and later (open file description locks). Newer conveniences fall back. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64

#include "platform.h"

#include "ordering.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "lock bytes lie beyond 2^62");

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE /* Linux 6.1 */
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGE_BYTES        ((size_t)2 << 20) /* of most systems; others lose nothing but a few addresses */
#define HUGE_PAGES_PATIENCE_NS (50 * INT64_C(1000000))
#define NS_PER_S               1000000000

/* One call of fallocate holds up every signal until it is done; in pieces a stop request is heard. */
#define BACK_PIECE_BYTES (UINT64_C(2) << 20)

const char *plat_object_directory(void)
{
    return "/dev/shm";
}

static int open_file(const char *path, int flags, uint32_t mode, plat_file *file)
{
    do
        *file = open(path, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, mode);
    while (*file < 0 && errno == EINTR);
    return *file < 0 ? -errno : 0;
}

int plat_create(const char *path, plat_file *file)
{
    int rc = open_file(path, O_RDWR | O_CREAT | O_EXCL, 0600, file);
    if (rc < 0)
        return rc;
    rc = plat_set_mode(*file, 0600); /* open's own mode is subject to the umask */
    if (rc == 0)
        return 0;
    plat_close(*file);
    (void)unlink(path);
    return rc;
}

int plat_set_mode(plat_file file, uint32_t mode)
{
    return fchmod(file, mode) != 0 ? -errno : 0;
}

int plat_open(const char *path, enum plat_access access, plat_file *file)
{
    return open_file(path, access == PLAT_READ ? O_RDONLY : O_RDWR, 0, file);
}

void plat_close(plat_file file)
{
    if (file != PLAT_NO_FILE)
        (void)close(file); /* on Linux the descriptor is gone even after EINTR */
}

static void fill_info(const struct stat *status, plat_info *info)
{
    *info = (plat_info){
        .device = (uint64_t)status->st_dev,
        .inode = (uint64_t)status->st_ino,
        .size_bytes = (uint64_t)status->st_size,
        .allocated_bytes = (uint64_t)status->st_blocks * 512,
        /* Unsigned: a file may claim to be from the year 3000. */
        .modified_wall_ns = (int64_t)((uint64_t)status->st_mtim.tv_sec * NS_PER_S + (uint64_t)status->st_mtim.tv_nsec),
        .owner_uid = status->st_uid,
        .mode = status->st_mode & 07777,
        .regular = S_ISREG(status->st_mode),
        .symbolic_link = S_ISLNK(status->st_mode),
    };
}

int plat_info_of(plat_file file, plat_info *info)
{
    struct stat status;
    if (fstat(file, &status) != 0)
        return -errno;
    fill_info(&status, info);
    return 0;
}

int plat_info_at(const char *path, plat_info *info)
{
    struct stat status;
    if (lstat(path, &status) != 0)
        return -errno;
    fill_info(&status, info);
    return 0;
}

int plat_resize(plat_file file, uint64_t bytes)
{
    int rc;
    if (bytes > INT64_MAX)
        return -EFBIG;
    do
        rc = ftruncate(file, (off_t)bytes);
    while (rc != 0 && errno == EINTR);
    return rc != 0 ? -errno : 0;
}

int plat_read(plat_file file, void *buffer, size_t bytes, uint64_t offset)
{
    uint8_t *to = buffer;
    while (bytes > 0) {
        ssize_t got = pread(file, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return -ENODATA;
        to += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return 0;
}

int plat_rename(const char *from, const char *to, bool replace)
{
    if (replace)
        return rename(from, to) != 0 ? -errno : 0;
#ifdef SYS_renameat2
    if (syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 1u /* RENAME_NOREPLACE */) == 0)
        return 0;
    if (errno != ENOSYS && errno != EINVAL)
        return -errno;
#endif
    if (link(from, to) !=
        0) /* where the file system has no such rename: the two together are not atomic, but each is */
        return -errno;
    (void)unlink(from);
    return 0;
}

int plat_unlink(const char *path)
{
    return unlink(path) != 0 ? -errno : 0;
}

int plat_supported(plat_file file, const char **kind)
{
    struct statfs status;
    int rc;
    do
        rc = fstatfs(file, &status);
    while (rc != 0 && errno == EINTR);
    if (rc != 0)
        return -errno;
    switch ((uint32_t)status.f_type) { /* magic numbers: statfs(2) */
    case 0x6969u:
        *kind = "NFS";
        return -EOPNOTSUPP;
    case 0x65735546u:
        *kind = "FUSE";
        return -EOPNOTSUPP;
    case 0xFF534D42u:
    case 0xFE534D42u:
        *kind = "CIFS/SMB";
        return -EOPNOTSUPP;
    case 0x01021997u:
        *kind = "9p";
        return -EOPNOTSUPP;
    default:
        *kind = "";
        return 0;
    }
}

static int back_with_zeros(plat_file file, uint64_t offset, uint64_t bytes)
{
    static const uint8_t zeros[BSHM_REGION_BYTES];
    while (bytes > 0) {
        size_t piece = bytes < sizeof zeros ? (size_t)bytes : sizeof zeros;
        ssize_t put = pwrite(file, zeros, piece, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? -errno : -ENOSPC;
        offset += (uint64_t)put;
        bytes -= (uint64_t)put;
    }
    return 0;
}

/* Lays huge pages under the range where the system gives any: the copies into it need a seventh less time, and to get one
 * takes a tenth of what its 512 small pages take. MADV_COLLAPSE makes one of what is there and of holes, but not of
 * nothing: a byte is written first, by a call that can say that there is no room. */
static void back_with_huge_pages(plat_file file, uint64_t offset, uint64_t bytes)
{
    void *address;
    if (bytes < HUGE_PAGE_BYTES || bytes > SIZE_MAX / 2)
        return;
    if (plat_map(file, offset, (size_t)bytes, PLAT_MAP_WRITE | PLAT_MAP_NOT_IN_CHILD, &address) < 0)
        return;
    int64_t until = plat_now_ns() + HUGE_PAGES_PATIENCE_NS; /* memory in pieces has to be moved together first */
    size_t at = (size_t)(-offset & (HUGE_PAGE_BYTES - 1));
    for (; at + HUGE_PAGE_BYTES <= bytes && plat_now_ns() < until; at += HUGE_PAGE_BYTES)
        if (pwrite(file, "", 1, (off_t)(offset + at)) != 1 ||
            madvise((uint8_t *)address + at, HUGE_PAGE_BYTES, MADV_COLLAPSE) != 0)
            break;
    plat_unmap(address, (size_t)bytes);
}

int plat_back(plat_file file, uint64_t offset, uint64_t bytes)
{
    uint64_t done = 0;
    int rc = 0;
    back_with_huge_pages(file, offset, bytes);
    while (done < bytes) {
        uint64_t piece = bytes - done < BACK_PIECE_BYTES ? bytes - done : BACK_PIECE_BYTES;
        /* The system call, not posix_fallocate: glibc would emulate it, byte by byte and not atomically. */
        if (fallocate(file, 0, (off_t)(offset + done), (off_t)piece) == 0) {
            done += piece;
            continue;
        }
        if (errno == EINTR)
            continue;
        rc = errno == EOPNOTSUPP || errno == ENOSYS ? back_with_zeros(file, offset + done, bytes - done) : -errno;
        break;
    }
    if (rc < 0)
        (void)plat_unback(file, offset, bytes);
    return rc;
}

int plat_unback(plat_file file, uint64_t offset, uint64_t bytes)
{
    int rc;
    do
        rc = fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
    while (rc != 0 && errno == EINTR);
    return rc != 0 ? -errno : 0;
}

uint64_t plat_free_bytes(plat_file file)
{
    struct statfs status;
    return fstatfs(file, &status) == 0 ? (uint64_t)status.f_bavail * (uint64_t)status.f_bsize : 0;
}

/* An address that is like the offset modulo the size of a huge page: else the kernel cannot map any. */
static void *map_alike(plat_file file, uint64_t offset, size_t bytes, int protection)
{
    uint8_t *room = MAP_FAILED;
    if (bytes >= HUGE_PAGE_BYTES)
        room = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return mmap(NULL, bytes, protection, MAP_SHARED, file, (off_t)offset);
    size_t before = (size_t)(offset - (uintptr_t)room) & (HUGE_PAGE_BYTES - 1);
    void *address = mmap(room + before, bytes, protection, MAP_SHARED | MAP_FIXED, file, (off_t)offset);
    if (address == MAP_FAILED) {
        int kept = errno;
        (void)munmap(room, bytes + HUGE_PAGE_BYTES);
        errno = kept;
        return address;
    }
    if (before)
        (void)munmap(room, before);
    (void)munmap(room + before + bytes, HUGE_PAGE_BYTES - before);
    return address;
}

static int map(plat_file file, uint64_t offset, size_t bytes, unsigned flags, void **address)
{
    int protection = PROT_READ | (flags & PLAT_MAP_WRITE ? PROT_WRITE : 0);
    *address = map_alike(file, offset, bytes, protection);
    if (*address == MAP_FAILED) {
        *address = NULL;
        return -errno;
    }
    (void)madvise(*address, bytes, MADV_DONTDUMP); /* a core dump would hold the locks while it writes frames */
    if ((flags & PLAT_MAP_NOT_IN_CHILD) && madvise(*address, bytes, MADV_DONTFORK) != 0) {
        int rc = -errno;
        plat_unmap(*address, bytes);
        *address = NULL;
        return rc;
    }
    return 0;
}

int plat_map(plat_file file, uint64_t offset, size_t bytes, unsigned flags, void **address)
{
    if (!(flags & PLAT_MAP_NOT_IN_CHILD))
        return map(file, offset, bytes, flags, address);
    plat_no_fork_begin();
    int rc = map(file, offset, bytes, flags, address);
    plat_no_fork_end();
    return rc;
}

void plat_unmap(void *address, size_t bytes)
{
    if (address)
        (void)munmap(address, bytes);
}

int plat_prefault(void *address, size_t bytes, bool write)
{
    int rc;
    do
        rc = madvise(address, bytes, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    while (rc != 0 && errno == EINTR);
    if (rc == 0 || errno != EINVAL)
        return rc != 0 && errno == EFAULT ? -EFAULT : 0;
    /* Before 5.14: touch each page; by an atomic operation that changes nothing, for others may be at work there. */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < bytes; at += page) {
        bshm_touch((uint8_t *)address + at, write);
    }
    return 0;
}

static int lock_call(plat_file file, int command, struct flock *lock)
{
    int rc;
    lock->l_whence = SEEK_SET;
    do
        rc = fcntl(file, command, lock);
    while (rc != 0 && errno == EINTR);
    return rc != 0 ? -errno : 0;
}

int plat_lock(plat_file file, uint64_t byte, bool exclusive)
{
    struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_start = (off_t)byte, .l_len = 1};
    int rc = lock_call(file, F_OFD_SETLK, &lock);
    return rc == -EACCES ? -EAGAIN : rc;
}

void plat_unlock(plat_file file, uint64_t byte)
{
    struct flock lock = {.l_type = F_UNLCK, .l_start = (off_t)byte, .l_len = 1};
    (void)lock_call(file, F_OFD_SETLK, &lock);
}

int plat_locked(plat_file file, uint64_t byte)
{
    /* As if for a read lock: only a write lock is in its way, and nobody gets one without write permission. */
    struct flock lock = {.l_type = F_RDLCK, .l_start = (off_t)byte, .l_len = 1};
    int rc = lock_call(file, F_OFD_GETLK, &lock);
    return rc < 0 ? rc : lock.l_type != F_UNLCK;
}

int plat_next_locked(plat_file file, uint64_t first, uint64_t last, uint64_t *byte)
{
    /* The kernel names *a* lock in the way, not the lowest: ask again for what lies before it. */
    int found = 0;
    while (first <= last) {
        struct flock lock = {.l_type = F_WRLCK, .l_start = (off_t)first, .l_len = (off_t)(last - first + 1)};
        if (lock_call(file, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
            break;
        *byte = (uint64_t)lock.l_start < first ? first : (uint64_t)lock.l_start;
        found = 1;
        if (*byte == first)
            break;
        last = *byte - 1;
    }
    return found;
}

/* ---------------------------------------------------------------- waiting, clocks, identity */

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

void plat_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    struct timespec timeout = timespec_of(timeout_ns > 0 ? timeout_ns : 0);
    /* Not the PRIVATE kind: the word is found by object and offset, so a read-only mapping will do. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, &timeout, NULL, 0);
}

void plat_wake_all(uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void plat_sleep(int64_t ns)
{
    struct timespec time = timespec_of(ns > 0 ? ns : 0);
    (void)nanosleep(&time, NULL);
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t plat_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t plat_coarse_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC_COARSE);
}

int64_t plat_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int plat_random(void *buffer, size_t bytes)
{
    plat_file file;
    int rc = open_file("/dev/urandom", O_RDONLY, 0, &file);
    if (rc < 0)
        return rc;
    ssize_t got = read(file, buffer, bytes);
    plat_close(file);
    return got == (ssize_t)bytes ? 0 : -EIO;
}

uint32_t plat_process_id(void)
{
    return (uint32_t)getpid();
}

void plat_process_name(char *name, size_t bytes)
{
    plat_file file;
    name[0] = '\0';
    if (open_file("/proc/self/comm", O_RDONLY, 0, &file) < 0)
        return;
    ssize_t got = read(file, name, bytes - 1);
    plat_close(file);
    name[got > 0 ? got : 0] = '\0';
    name[strcspn(name, "\n")] = '\0';
}

uint32_t plat_user_id(void)
{
    return (uint32_t)geteuid();
}
