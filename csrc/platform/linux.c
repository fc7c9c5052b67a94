/* linux.c - Linux 3.15 and later (open file description locks). Newer conveniences have fallbacks. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64

#include "../platform.h"
#ifdef __linux__

#include "../ordering.h"
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE /* Linux 6.1 */
#define MADV_COLLAPSE 25
#endif

#define HUGE_PAGE_BYTES       ((size_t)2 << 20) /* on most systems; on others a few addresses are wasted */
#define HUGE_PAGES_TIMEOUT_NS (50 * INT64_C(1000000))

/* A call to fallocate delays every signal until it returns: in pieces, a stop request is handled soon. */
#define BACK_PIECE_BYTES (UINT64_C(2) << 20)

const char *bshm_os_object_directory(void)
{
    return "/dev/shm";
}

int bshm_os_rename(const char *from, const char *to, bool replace)
{
    if (replace)
        return rename(from, to) != 0 ? -errno : 0;
#ifdef SYS_renameat2
    if (syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 1u /* RENAME_NOREPLACE */) == 0)
        return 0;
    if (errno != ENOSYS && errno != EINVAL)
        return -errno;
#endif
    return bshm_posix_rename_by_link(from, to); /* the file system, or a kernel before 3.15, does not have it */
}

int bshm_os_check_file_system(bshm_os_file file, const char **kind)
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
    case 0x00C36400u:
        *kind = "Ceph";
        return -EOPNOTSUPP;
    case 0x0BD00BD0u:
        *kind = "Lustre";
        return -EOPNOTSUPP;
    case 0x5346414Fu:
    case 0x6B414653u:
        *kind = "AFS";
        return -EOPNOTSUPP;
    default:
        *kind = "";
        return 0;
    }
}

typedef struct byte_range {
    uint64_t from, to;
} byte_range;

/* Puts huge pages under the range where the system has any: copies into it take a seventh less time, and a huge
 * page takes a tenth of the time of its 512 small ones. MADV_COLLAPSE needs at least one page that is present, and
 * fills holes: so one byte is written first, by a call that can report that there is no room. Returns the part that has
 * memory now, counted from `offset`. */
static byte_range back_with_huge_pages(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    void *address;
    byte_range backed = {0, 0};
    if (bytes < HUGE_PAGE_BYTES || bytes > SIZE_MAX / 2)
        return backed;
    if (bshm_os_map(file, offset, (size_t)bytes, BSHM_OS_MAP_WRITE | BSHM_OS_MAP_NOT_IN_CHILD, &address) < 0)
        return backed;
    int64_t until = bshm_os_now_ns() + HUGE_PAGES_TIMEOUT_NS; /* fragmented memory has to be compacted first */
    backed.from = backed.to = -offset & (HUGE_PAGE_BYTES - 1);
    while (backed.to + HUGE_PAGE_BYTES <= bytes && bshm_os_now_ns() < until &&
           bshm_posix_has_room(file, bytes - (backed.to - backed.from)) &&
           pwrite(file, "", 1, (off_t)(offset + backed.to)) == 1) {
        bool huge = madvise((uint8_t *)address + backed.to, HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0;
        backed.to += huge ? HUGE_PAGE_BYTES : (size_t)sysconf(_SC_PAGESIZE); /* the page with the byte, at least */
        if (!huge)
            break;
    }
    bshm_os_unmap(address, (size_t)bytes);
    return backed;
}

/* How many bytes of the range still need memory when its first `done` bytes have it, and those of `backed`. */
static uint64_t missing_bytes(uint64_t done, uint64_t bytes, byte_range backed)
{
    uint64_t from = done > backed.from ? done : backed.from;
    return bytes - done - (backed.to > from ? backed.to - from : 0);
}

int bshm_os_allocate(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    uint64_t done = 0;
    int rc = 0;
    if (!bshm_posix_has_room(file, bytes))
        return -ENOSPC;
    byte_range backed = back_with_huge_pages(file, offset, bytes);
    while (done < bytes) {
        uint64_t piece = bytes - done < BACK_PIECE_BYTES ? bytes - done : BACK_PIECE_BYTES;
        /* Check again, because others may take memory in between: going on to the last page would leave them none. */
        if (!bshm_posix_has_room(file, missing_bytes(done, bytes, backed))) {
            rc = -ENOSPC;
            break;
        }
        /* Not posix_fallocate: where the system call fails, glibc emulates it, byte by byte and not atomically. */
        if (fallocate(file, 0, (off_t)(offset + done), (off_t)piece) == 0) {
            done += piece;
            continue;
        }
        if (errno == EINTR)
            continue;
        rc =
            errno == EOPNOTSUPP || errno == ENOSYS ? bshm_posix_write_zeros(file, offset + done, bytes - done) : -errno;
        break;
    }
    if (rc < 0)
        (void)bshm_os_punch(file, offset, bytes);
    return rc;
}

int bshm_os_punch(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    int rc;
    do
        rc = fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
    while (rc != 0 && errno == EINTR);
    return rc != 0 ? -errno : 0;
}

uint64_t bshm_os_free_bytes(bshm_os_file file)
{
    struct statfs status;
    return fstatfs(file, &status) == 0 ? (uint64_t)status.f_bavail * (uint64_t)status.f_bsize : 0;
}

/* At an address that equals the offset modulo the size of a huge page: otherwise the kernel cannot map any. */
void *bshm_posix_map_pages(bshm_os_file file, uint64_t offset, size_t bytes, int protection)
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

int bshm_posix_advise_mapping(void *address, size_t bytes, bool not_in_child)
{
    (void)madvise(address, bytes, MADV_DONTDUMP); /* a core dump would keep the locks while it is written */
    return not_in_child && madvise(address, bytes, MADV_DONTFORK) != 0 ? -errno : 0;
}

/* Whether the page is present or can be made: asks the kernel, which answers where touching it would raise
 * SIGBUS. A kernel that does not let a process read its own memory that way (seccomp) gives no answer; then the page
 * is touched. */
static bool page_is_there(uint8_t *page)
{
    uint8_t byte;
    struct iovec to = {.iov_base = &byte, .iov_len = 1};
    struct iovec from = {.iov_base = page, .iov_len = 1};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == 1 || errno != EFAULT;
}

/* Touches each page by an atomic operation that changes nothing, since others may be writing there. */
static int touch_pages(uint8_t *address, size_t bytes, bool write)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < bytes; at += page) {
        if (!page_is_there(address + at))
            return -EFAULT;
        bshm_touch(address + at, write);
    }
    return 0;
}

int bshm_os_prefault(void *address, size_t bytes, bool write)
{
    int rc;
    do
        rc = madvise(address, bytes, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && errno == EINVAL) /* before 5.14 */
        return touch_pages(address, bytes, write);
    return rc != 0 && errno == EFAULT ? -EFAULT : 0;
}

/* ---------------------------------------------------------------- waiting, clocks, identity */

void bshm_os_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    struct timespec timeout = bshm_posix_timespec(timeout_ns > 0 ? timeout_ns : 0);
    /* Not FUTEX_PRIVATE_FLAG: the kernel then finds the word by object and offset, also through a read-only mapping. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT, value, &timeout, NULL, 0);
}

void bshm_os_wake_all(uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

int64_t bshm_os_now_ns(void)
{
    return bshm_posix_clock_ns(CLOCK_MONOTONIC);
}

int64_t bshm_os_coarse_now_ns(void)
{
    return bshm_posix_clock_ns(CLOCK_MONOTONIC_COARSE);
}

void bshm_os_process_name(char *name, size_t bytes)
{
    bshm_os_file file;
    name[0] = '\0';
    if (bshm_posix_open("/proc/self/comm", O_RDONLY, 0, &file) < 0)
        return;
    ssize_t got = read(file, name, bytes - 1);
    bshm_os_close(file);
    name[got > 0 ? got : 0] = '\0';
    name[strcspn(name, "\n")] = '\0';
}

#endif
