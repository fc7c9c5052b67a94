/* macos.c - macOS 10.15 and later (open file description locks, waiting across processes).
 *
 * POSIX shared memory on macOS cannot be read, renamed or locked. So a name is a file in the user's own
 * temporary directory, and each user has separate names; to share frames between users, give a path.
 */
#include "../platform.h"
#ifdef __APPLE__

#include "../ordering.h"
#include "posix.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <libproc.h>
#include <mach/mach.h>
#include <mach/vm_map.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/param.h>
#include <sys/stat.h>
#include <unistd.h>

#define OBJECT_DIRECTORY "billiards_shm"
#define POLL_NS          1000000

/* ---------------------------------------------------------------- objects */

static char object_directory[BSHM_OS_PATH_BYTES];

static void init_object_directory(void)
{
    char parent[PATH_MAX];
    size_t length = confstr(_CS_DARWIN_USER_TEMP_DIR, parent, sizeof parent);
    /* Not TMPDIR: processes of one user may have different ones, but must find each other. */
    if (length == 0 || length > sizeof parent)
        (void)snprintf(parent, sizeof parent, "/tmp/%u-", (unsigned)geteuid());
    (void)snprintf(object_directory, sizeof object_directory, "%s" OBJECT_DIRECTORY, parent);
    (void)mkdir(object_directory, 0700); /* if this fails, the first use of the directory reports why */
}

const char *bshm_os_object_directory(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, init_object_directory);
    return object_directory;
}

int bshm_os_rename(const char *from, const char *to, bool replace)
{
    if (replace)
        return rename(from, to) != 0 ? -errno : 0;
    if (renamex_np(from, to, RENAME_EXCL) == 0)
        return 0;
    return errno == ENOTSUP || errno == EINVAL ? bshm_posix_rename_by_link(from, to) : -errno;
}

int bshm_os_check_file_system(bshm_os_file file, const char **kind)
{
    static const struct {
        const char *name, *kind;
    } refused[] = {{"nfs", "NFS"},      {"smbfs", "CIFS/SMB"}, {"afpfs", "AFP"},   {"webdav", "WebDAV"}, {"ftp", "FTP"},
                   {"macfuse", "FUSE"}, {"osxfuse", "FUSE"},   {"fusefs", "FUSE"}, {"autofs", "NFS"}};
    struct statfs status;
    int rc;
    do
        rc = fstatfs(file, &status);
    while (rc != 0 && errno == EINTR);
    if (rc != 0)
        return -errno;
    *kind = "";
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (strcmp(status.f_fstypename, refused[i].name) == 0)
            *kind = refused[i].kind;
    if (**kind == '\0' && !(status.f_flags & MNT_LOCAL))
        *kind = "a network file system";
    return **kind == '\0' ? 0 : -EOPNOTSUPP;
}

int bshm_os_allocate(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    /* F_PREALLOCATE only reserves memory beyond the end of a file. APFS allocates blocks of zeros immediately. */
    if (!bshm_posix_has_room(file, bytes))
        return -ENOSPC;
    int rc = bshm_posix_write_zeros(file, offset, bytes);
    if (rc < 0)
        (void)bshm_os_punch(file, offset, bytes);
    return rc;
}

int bshm_os_punch(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    fpunchhole_t hole = {.fp_offset = (off_t)offset, .fp_length = (off_t)bytes};
    int rc;
    do
        rc = fcntl(file, F_PUNCHHOLE, &hole);
    while (rc != 0 && errno == EINTR);
    return rc != 0 ? -errno : 0;
}

uint64_t bshm_os_free_bytes(bshm_os_file file)
{
    struct statfs status;
    return fstatfs(file, &status) == 0 ? (uint64_t)status.f_bavail * (uint64_t)status.f_bsize : 0;
}

void *bshm_posix_map_pages(bshm_os_file file, uint64_t offset, size_t bytes, int protection)
{
    return mmap(NULL, bytes, protection, MAP_SHARED, file, (off_t)offset);
}

int bshm_posix_advise_mapping(void *address, size_t bytes, bool not_in_child)
{
    return not_in_child && minherit(address, bytes, VM_INHERIT_NONE) != 0 ? -errno : 0;
}

int bshm_os_prefault(void *address, size_t bytes, bool write)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < bytes; at += page) {
        uint8_t *here = (uint8_t *)address + at;
        uint8_t byte;
        vm_size_t got = 0;
        /* Ask the kernel first: it answers where touching the page would be SIGBUS. */
        if (vm_read_overwrite(mach_task_self(), (vm_address_t)here, 1, (vm_address_t)&byte, &got) != KERN_SUCCESS)
            return -EFAULT;
        bshm_touch(here, write);
    }
    return 0;
}

/* ---------------------------------------------------------------- waiting */

/* Public from macOS 14.4 on (os/os_sync_wait_on_address.h). Looked up at run time, so that one binary runs on older
 * systems too. */
typedef int (*wait_on_address)(void *word, uint64_t value, size_t bytes, uint32_t flags, uint32_t clock,
                               uint64_t timeout_ns);
typedef int (*wake_by_address)(void *word, size_t bytes, uint32_t flags);
#define WAIT_SHARED              1u  /* OS_SYNC_WAIT_ON_ADDRESS_SHARED, OS_SYNC_WAKE_BY_ADDRESS_SHARED */
#define CLOCK_MACH_ABSOLUTE_TIME 32u /* OS_CLOCK_MACH_ABSOLUTE_TIME */

/* What the functions above are built on: in every libSystem since 10.12, but in no public header (bsd/sys/ulock.h of
 * xnu). Since 10.15 it reaches sleepers in other processes. */
typedef int (*ulock_wait)(uint32_t operation, void *word, uint64_t value, uint32_t timeout_us);
typedef int (*ulock_wake)(uint32_t operation, void *word, uint64_t wake_value);
#define UL_COMPARE_AND_WAIT_SHARED 3u
#define ULF_WAKE_ALL               0x100u

static struct {
    wait_on_address wait;
    wake_by_address wake;
    ulock_wait old_wait;
    ulock_wake old_wake;
} sleeping;

static void find_sleeping(void)
{
    void *wait = dlsym(RTLD_DEFAULT, "os_sync_wait_on_address_with_timeout");
    void *wake = dlsym(RTLD_DEFAULT, "os_sync_wake_by_address_all");
    if (wait && wake) {
        memcpy(&sleeping.wait, &wait, sizeof wait); /* C has no cast from an object to a function */
        memcpy(&sleeping.wake, &wake, sizeof wake);
        return;
    }
    wait = dlsym(RTLD_DEFAULT, "__ulock_wait");
    wake = dlsym(RTLD_DEFAULT, "__ulock_wake");
    if (wait && wake) {
        memcpy(&sleeping.old_wait, &wait, sizeof wait);
        memcpy(&sleeping.old_wake, &wake, sizeof wake);
    }
}

static void prepare_sleeping(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, find_sleeping);
}

void bshm_os_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    void *address = (void *)(uintptr_t)word; /* only read */
    int rc = -1;
    if (timeout_ns <= 0)
        return;
    prepare_sleeping();
    errno = ENOTSUP;
    if (sleeping.wait) {
        rc = sleeping.wait(address, value, sizeof *word, WAIT_SHARED, CLOCK_MACH_ABSOLUTE_TIME, (uint64_t)timeout_ns);
    } else if (sleeping.old_wait) {
        uint64_t timeout_us = ((uint64_t)timeout_ns + 999) / 1000; /* 0 would mean no timeout */
        rc = sleeping.old_wait(UL_COMPARE_AND_WAIT_SHARED, address, value,
                               timeout_us < UINT32_MAX ? (uint32_t)timeout_us : UINT32_MAX);
    }
    if (rc < 0 && errno != ETIMEDOUT && errno != EINTR && errno != EAGAIN && errno != EFAULT)
        bshm_os_sleep(timeout_ns < POLL_NS ? timeout_ns : POLL_NS); /* not available: the caller polls */
}

void bshm_os_wake_all(uint32_t *word)
{
    prepare_sleeping();
    if (sleeping.wake)
        (void)sleeping.wake(word, sizeof *word, WAIT_SHARED); /* fails if no thread sleeps there */
    else if (sleeping.old_wake)
        (void)sleeping.old_wake(UL_COMPARE_AND_WAIT_SHARED | ULF_WAKE_ALL, word, 0);
}

/* ---------------------------------------------------------------- clocks, identity */

int64_t bshm_os_now_ns(void)
{
    return (int64_t)clock_gettime_nsec_np(CLOCK_UPTIME_RAW); /* what Python calls monotonic here */
}

int64_t bshm_os_coarse_now_ns(void)
{
    return bshm_os_now_ns(); /* read in user space; the approximate clock is not cheaper */
}

void bshm_os_process_name(char *name, size_t bytes)
{
    char found[2 * MAXCOMLEN + 1] = "";
    (void)proc_name(getpid(), found, sizeof found);
    (void)snprintf(name, bytes, "%s", found);
}

#endif
