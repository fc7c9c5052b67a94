/* platform.h - the interface to the operating system. platform/ implements it; only the files there make system
 * calls.
 *
 * Functions return 0 or a negative errno unless they say otherwise.
 */
#ifndef BSHM_PLATFORM_H
#define BSHM_PLATFORM_H

#include <errno.h>
#ifndef _WIN32
#include <pthread.h>
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__linux__) && !defined(__APPLE__) && !defined(_WIN32)
#error "billiards_shm has no platform layer for this system: only Linux, macOS and Windows have one"
#endif
#if !defined(__LP64__) && !defined(_WIN64)
/* Slots are mapped whole, up to 62 of them, and old segments stay mapped while their frames are held: 32-bit
 * addresses run out where 64-bit ones do not. And a 64-bit atomic may be a lock of the C library there, which
 * processes do not share. */
#error "billiards_shm needs a 64-bit system"
#endif

#define BSHM_OS_PATH_BYTES 4096

/* The oldest system that has everything used here. Functions that the system does not have return -ENOSYS. */
#if defined(__APPLE__)
#define BSHM_OS_NEEDS "macOS 10.15 or later"
#elif defined(_WIN32)
#define BSHM_OS_NEEDS "Windows 10 or later"
#else
#define BSHM_OS_NEEDS "Linux 3.15 or later"
#endif

#ifdef _WIN32
typedef void *bshm_os_file;
#define BSHM_OS_NO_FILE ((void *)(intptr_t)-1) /* INVALID_HANDLE_VALUE */
#ifndef EDQUOT
#define EDQUOT 10069 /* WSAEDQUOT: errno.h has none */
#endif
#else
typedef int bshm_os_file;
#define BSHM_OS_NO_FILE (-1)
#endif

/* The last separator of a path; null: the path has one component only. */
static inline const char *bshm_os_last_separator(const char *path)
{
    const char *last = strrchr(path, '/');
#ifdef _WIN32
    const char *backslash = strrchr(path, '\\');
    if (backslash && (!last || backslash > last))
        last = backslash;
#endif
    return last;
}

enum bshm_os_access { BSHM_OS_READ, BSHM_OS_READ_WRITE };

typedef struct bshm_os_info {
    uint64_t device; /* with `inode`: which object this is, while it is open or has a name */
    uint64_t inode;
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    int64_t modified_wall_ns;
    uint32_t owner_uid;
    uint32_t group_gid; /* UINT32_MAX where files have no group */
    uint32_t mode;
    bool regular;
    bool symbolic_link;
} bshm_os_info;

static inline bool bshm_os_same_object(const bshm_os_info *a, const bshm_os_info *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* Files. No open follows a symbolic link in the last component or blocks; every file closes on exec. */
const char *bshm_os_object_directory(void);
int bshm_os_absolute_path(const char *path, char *absolute, size_t bytes); /* -ENAMETOOLONG, or -EINVAL: not UTF-8 */
int bshm_os_create(const char *path, bshm_os_file *file);                  /* mode 0600; -EEXIST if it exists */
int bshm_os_set_mode(bshm_os_file file, uint32_t mode);
int bshm_os_set_group(bshm_os_file file, uint32_t gid); /* -ENOTSUP where files have no group */
int bshm_os_open(const char *path, enum bshm_os_access access, bshm_os_file *file);
void bshm_os_close(bshm_os_file file);
int bshm_os_info_of(bshm_os_file file, bshm_os_info *info);
int bshm_os_info_at(const char *path, bshm_os_info *info); /* of a symbolic link itself */
int bshm_os_resize(bshm_os_file file, uint64_t bytes);
int bshm_os_read(bshm_os_file file, void *buffer, size_t bytes, uint64_t offset); /* -ENODATA: the file is shorter */
int bshm_os_rename(const char *from, const char *to, bool replace); /* without replace: -EEXIST if it exists */
int bshm_os_unlink(const char *path);
/* 0, or -EOPNOTSUPP and the file system's name in *kind: locks or mappings do not work there as required. */
int bshm_os_check_file_system(bshm_os_file file, const char **kind);

/* Gives a hole memory (-ENOSPC: nothing of it stays allocated), or returns the memory to the system. */
int bshm_os_allocate(bshm_os_file file, uint64_t offset, uint64_t bytes);
int bshm_os_punch(bshm_os_file file, uint64_t offset, uint64_t bytes);
/* All of the range has memory, so reading a mapping of it takes none. */
bool bshm_os_has_no_hole(bshm_os_file file, uint64_t offset, uint64_t bytes);
uint64_t bshm_os_free_bytes(bshm_os_file file); /* of the file system that the file lies on */

enum bshm_os_map_flags {
    BSHM_OS_MAP_WRITE = 1,
    BSHM_OS_MAP_NOT_IN_CHILD = 2 /* a mapping keeps its file's locks alive, and so would a forked child's */
};
/* No fork happens between the mapping and the store to *address. */
int bshm_os_map(bshm_os_file file, uint64_t offset, size_t bytes, unsigned flags, void **address);
void bshm_os_unmap(void *address, size_t bytes);
/* Replaces a mapping with zeros private to this process, at the same addresses: its file is released. Windows cannot do
 * that, and the mapping stays. */
void bshm_os_blank(void *address, size_t bytes, unsigned flags);
/* Fills the page tables, so that the first use does not fault. Best effort, except for -EFAULT: there is no memory
 * behind a part of the range, nor room for more, and touching it would raise SIGBUS. Before Linux 5.14 this is a guess.
 * */
int bshm_os_prefault(void *address, size_t bytes, bool write);

/* Locks on one byte, taken without waiting; they end with their process. -EAGAIN: another file has it. Do not lock a
 * byte twice through one file: some systems grant that, others refuse. */
int bshm_os_lock(bshm_os_file file, uint64_t byte, bool exclusive);
/* A shared lock on a byte that no other file has locked in any way. Two that try at the same time may both get -EAGAIN.
 * */
int bshm_os_lock_alone(bshm_os_file file, uint64_t byte);
void bshm_os_unlock(bshm_os_file file, uint64_t byte);
/* 1: another file has the exclusive lock; 0: no other has it; or a negative errno. Do not ask for a byte that this file
 * has locked. Shared locks do not count: any process that can read the file can take one. */
int bshm_os_is_locked(bshm_os_file file, uint64_t byte);
/* 1: *from is the first byte from `first` to `last` that another file has locked, in any way or exclusively, and *to
 * the last byte of that lock, as far as the system says; 0: there is none. */
int bshm_os_find_locked(bshm_os_file file, uint64_t first, uint64_t last, bool exclusively, uint64_t *from,
                        uint64_t *to);

/* What a forked child must release. In the child, `in_child` of each member runs before anything else does. It must not
 * lock or free anything: other threads, which do not exist there, may have been working on the member. It returns false
 * if the member has to leave the list, because it is on the stack of such a thread. */
typedef struct bshm_os_fork_member {
    struct bshm_os_fork_member *next, *previous;
    bool (*in_child)(struct bshm_os_fork_member *member);
} bshm_os_fork_member;
void bshm_os_join_fork_list(bshm_os_fork_member *member, bool (*in_child)(bshm_os_fork_member *member));
void bshm_os_leave_fork_list(bshm_os_fork_member *member);
/* No fork happens in between. Use them around opening a file and storing it in the member, and closing and resetting
 * it. */
void bshm_os_block_fork(void);
void bshm_os_allow_fork(void);

/* Waits while *word, which lies in a mapping of bshm_os_map, is `value`. May return early: after a wake or a signal. */
void bshm_os_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns);
void bshm_os_wake_all(uint32_t *word);
void bshm_os_sleep(int64_t ns); /* returns early on a signal */

int64_t bshm_os_now_ns(void);        /* CLOCK_MONOTONIC */
int64_t bshm_os_coarse_now_ns(void); /* the same clock, a few ms behind, several times cheaper */
int64_t bshm_os_wall_ns(void);
int bshm_os_random(void *buffer, size_t bytes);
uint32_t bshm_os_process_id(void);
void bshm_os_process_name(char *name, size_t bytes);
uint32_t bshm_os_user_id(void);

#ifdef _WIN32
typedef struct bshm_os_mutex {
    void *word; /* an SRWLOCK */
} bshm_os_mutex;
void bshm_os_mutex_init(bshm_os_mutex *mutex);
void bshm_os_mutex_destroy(bshm_os_mutex *mutex);
void bshm_os_mutex_lock(bshm_os_mutex *mutex);
void bshm_os_mutex_unlock(bshm_os_mutex *mutex);
#else
typedef pthread_mutex_t bshm_os_mutex;
static inline void bshm_os_mutex_init(bshm_os_mutex *mutex)
{
    (void)pthread_mutex_init(mutex, NULL);
}
static inline void bshm_os_mutex_destroy(bshm_os_mutex *mutex)
{
    (void)pthread_mutex_destroy(mutex);
}
static inline void bshm_os_mutex_lock(bshm_os_mutex *mutex)
{
    (void)pthread_mutex_lock(mutex);
}
static inline void bshm_os_mutex_unlock(bshm_os_mutex *mutex)
{
    (void)pthread_mutex_unlock(mutex);
}
#endif

#endif
