/* posix.c - files, locks and time, where Linux and macOS are the same. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define _FILE_OFFSET_BITS 64

#include "../platform.h"
#ifndef _WIN32

#include "../billiards_shm.h"
#include "posix.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#ifdef __APPLE__
#define st_mtim st_mtimespec
#endif

/* Open file description locks, for C libraries older than the kernel: values of fcntl.h on Linux and in xnu. */
#ifndef F_OFD_GETLK
#ifdef __APPLE__
#define F_OFD_SETLK 90
#define F_OFD_GETLK 92
#else
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif
#endif

int bshm_posix_open(const char *path, int flags, uint32_t mode, bshm_os_file *file)
{
    do
        *file = open(path, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, (mode_t)mode);
    while (*file < 0 && errno == EINTR);
    return *file < 0 ? -errno : 0;
}

int bshm_os_absolute_path(const char *path, char *absolute, size_t bytes)
{
    absolute[0] = '\0';
    if (path[0] != '/' && !getcwd(absolute, bytes))
        return errno == ERANGE ? -ENAMETOOLONG : -errno;
    size_t length = strlen(absolute);
    int more = snprintf(absolute + length, bytes - length, path[0] == '/' ? "%s" : "/%s", path);
    return more < 0 || (size_t)more >= bytes - length ? -ENAMETOOLONG : 0;
}

int bshm_os_create(const char *path, bshm_os_file *file)
{
    int rc = bshm_posix_open(path, O_RDWR | O_CREAT | O_EXCL, 0600, file);
    if (rc < 0)
        return rc;
    rc = bshm_os_set_mode(*file, 0600); /* open's mode is subject to the umask */
    if (rc == 0)
        return 0;
    bshm_os_close(*file);
    *file = BSHM_OS_NO_FILE;
    (void)unlink(path);
    return rc;
}

int bshm_os_set_mode(bshm_os_file file, uint32_t mode)
{
    return fchmod(file, (mode_t)mode) != 0 ? -errno : 0;
}

int bshm_os_set_group(bshm_os_file file, uint32_t gid)
{
    return fchown(file, (uid_t)-1, (gid_t)gid) != 0 ? -errno : 0;
}

int bshm_os_open(const char *path, enum bshm_os_access access, bshm_os_file *file)
{
    return bshm_posix_open(path, access == BSHM_OS_READ ? O_RDONLY : O_RDWR, 0, file);
}

void bshm_os_close(bshm_os_file file)
{
    if (file != BSHM_OS_NO_FILE)
        (void)close(file); /* on Linux the descriptor is closed even after EINTR */
}

static void fill_info(const struct stat *status, bshm_os_info *info)
{
    *info = (bshm_os_info){
        .device = (uint64_t)status->st_dev,
        .inode = (uint64_t)status->st_ino,
        .size_bytes = (uint64_t)status->st_size,
        .allocated_bytes = (uint64_t)status->st_blocks * 512,
        /* Unsigned: a file may claim to be from the year 3000. */
        .modified_wall_ns = (int64_t)((uint64_t)status->st_mtim.tv_sec * NS_PER_S + (uint64_t)status->st_mtim.tv_nsec),
        .owner_uid = status->st_uid,
        .group_gid = status->st_gid,
        .mode = status->st_mode & 07777,
        .regular = S_ISREG(status->st_mode),
        .symbolic_link = S_ISLNK(status->st_mode),
    };
}

int bshm_os_info_of(bshm_os_file file, bshm_os_info *info)
{
    struct stat status;
    if (fstat(file, &status) != 0)
        return -errno;
    fill_info(&status, info);
    return 0;
}

int bshm_os_info_at(const char *path, bshm_os_info *info)
{
    struct stat status;
    if (lstat(path, &status) != 0)
        return -errno;
    fill_info(&status, info);
    return 0;
}

int bshm_os_resize(bshm_os_file file, uint64_t bytes)
{
    int rc;
    struct rlimit limit;
    /* Checked first: a program in C would die of SIGXFSZ. Within this size no later write exceeds the limit. */
    if (bytes > INT64_MAX || (getrlimit(RLIMIT_FSIZE, &limit) == 0 && bytes > limit.rlim_cur))
        return -EFBIG;
    do
        rc = ftruncate(file, (off_t)bytes);
    while (rc != 0 && errno == EINTR);
    return rc != 0 ? -errno : 0;
}

int bshm_os_read(bshm_os_file file, void *buffer, size_t bytes, uint64_t offset)
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

int bshm_os_unlink(const char *path)
{
    return unlink(path) != 0 ? -errno : 0;
}

int bshm_posix_rename_by_link(const char *from, const char *to)
{
    if (link(from, to) != 0)
        return -errno;
    (void)unlink(from);
    return 0;
}

bool bshm_posix_has_room(bshm_os_file file, uint64_t bytes)
{
    struct statvfs status;
    if (fstatvfs(file, &status) != 0 || status.f_blocks == 0) /* 0: a tmpfs without a limit */
        return true;
    return bytes <= (uint64_t)status.f_bfree * (uint64_t)status.f_frsize;
}

bool bshm_os_has_no_hole(bshm_os_file file, uint64_t offset, uint64_t bytes)
{
    /* Moves the position in the file, which no other call uses. */
    off_t hole = lseek(file, (off_t)offset, SEEK_HOLE);
    return hole >= 0 && (uint64_t)hole >= offset + bytes;
}

int bshm_posix_write_zeros(bshm_os_file file, uint64_t offset, uint64_t bytes)
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

static int map(bshm_os_file file, uint64_t offset, size_t bytes, unsigned flags, void **address)
{
    int protection = PROT_READ | (flags & BSHM_OS_MAP_WRITE ? PROT_WRITE : 0);
    *address = bshm_posix_map_pages(file, offset, bytes, protection);
    if (*address == MAP_FAILED) {
        *address = NULL;
        return -errno;
    }
    int rc = bshm_posix_advise_mapping(*address, bytes, flags & BSHM_OS_MAP_NOT_IN_CHILD);
    if (rc < 0) {
        bshm_os_unmap(*address, bytes);
        *address = NULL;
    }
    return rc;
}

int bshm_os_map(bshm_os_file file, uint64_t offset, size_t bytes, unsigned flags, void **address)
{
    bshm_os_block_fork();
    int rc = map(file, offset, bytes, flags, address);
    bshm_os_allow_fork();
    return rc;
}

void bshm_os_unmap(void *address, size_t bytes)
{
    if (address)
        (void)munmap(address, bytes);
}

void bshm_os_blank(void *address, size_t bytes, unsigned flags)
{
    int protection = PROT_READ | (flags & BSHM_OS_MAP_WRITE ? PROT_WRITE : 0);
    if (address)
        (void)mmap(address, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static int lock_call(bshm_os_file file, int command, struct flock *lock)
{
    int rc;
    lock->l_whence = SEEK_SET;
    do
        rc = fcntl(file, command, lock);
    while (rc != 0 && errno == EINTR);
    if (rc != 0 && errno == EINVAL)
        return -ENOSYS; /* the arguments are valid: the kernel does not know the command */
    return rc != 0 ? -errno : 0;
}

int bshm_os_lock(bshm_os_file file, uint64_t byte, bool exclusive)
{
    struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_start = (off_t)byte, .l_len = 1};
    int rc = lock_call(file, F_OFD_SETLK, &lock);
    return rc == -EACCES ? -EAGAIN : rc;
}

int bshm_os_lock_alone(bshm_os_file file, uint64_t byte)
{
    uint64_t from, to;
    int rc = bshm_os_lock(file, byte, false); /* an exclusive lock needs a writable file */
    if (rc == 0 && bshm_os_find_locked(file, byte, byte, false, &from, &to) == 1) {
        bshm_os_unlock(file, byte);
        rc = -EAGAIN;
    }
    return rc;
}

void bshm_os_unlock(bshm_os_file file, uint64_t byte)
{
    struct flock lock = {.l_type = F_UNLCK, .l_start = (off_t)byte, .l_len = 1};
    (void)lock_call(file, F_OFD_SETLK, &lock);
}

int bshm_os_is_locked(bshm_os_file file, uint64_t byte)
{
    /* Asks for a read lock: only a write lock conflicts, and a write lock needs write permission. */
    struct flock lock = {.l_type = F_RDLCK, .l_start = (off_t)byte, .l_len = 1};
    int rc = lock_call(file, F_OFD_GETLK, &lock);
    return rc < 0 ? rc : lock.l_type != F_UNLCK;
}

int bshm_os_find_locked(bshm_os_file file, uint64_t first, uint64_t last, bool exclusively, uint64_t *from,
                        uint64_t *to)
{
    /* The kernel returns *a* conflicting lock, not the lowest: ask again for the bytes before it. */
    int found = 0;
    while (first <= last) {
        struct flock lock = {
            .l_type = exclusively ? F_RDLCK : F_WRLCK, .l_start = (off_t)first, .l_len = (off_t)(last - first + 1)};
        if (lock_call(file, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
            break;
        *from = (uint64_t)lock.l_start < first ? first : (uint64_t)lock.l_start;
        *to = lock.l_len == 0 ? UINT64_MAX : (uint64_t)lock.l_start + (uint64_t)lock.l_len - 1; /* 0: without end */
        found = 1;
        if (*from == first)
            break;
        last = *from - 1;
    }
    return found;
}

struct timespec bshm_posix_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
}

void bshm_os_sleep(int64_t ns)
{
    struct timespec time = bshm_posix_timespec(ns > 0 ? ns : 0);
    (void)nanosleep(&time, NULL);
}

int64_t bshm_posix_clock_ns(clockid_t clock)
{
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t bshm_os_wall_ns(void)
{
    return bshm_posix_clock_ns(CLOCK_REALTIME);
}

int bshm_os_random(void *buffer, size_t bytes)
{
    bshm_os_file file;
    int rc = bshm_posix_open("/dev/urandom", O_RDONLY, 0, &file);
    if (rc < 0)
        return rc;
    ssize_t got = read(file, buffer, bytes);
    bshm_os_close(file);
    return got == (ssize_t)bytes ? 0 : -EIO;
}

uint32_t bshm_os_process_id(void)
{
    return (uint32_t)getpid();
}

uint32_t bshm_os_user_id(void)
{
    return (uint32_t)geteuid();
}

#endif
