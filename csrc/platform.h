/* platform.h - what the core needs of a system; one file per system implements it. The only system calls are there.
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
#error "billiards_shm has no platform layer for this system: Linux, macOS and Windows have one"
#endif
#if !defined(__LP64__) && !defined(_WIN64)
/* Slots are mapped whole, up to 62 of them, and old generations stay as long as their frames do: 32 bits of addresses run
 * out of room where 64 do not, and a 64-bit atomic may be a lock of the C library's, which processes would not share. */
#error "billiards_shm needs a 64-bit system"
#endif

#define BSHM_OS_PATH_BYTES 4096

/* The oldest system that has all this rests upon. Functions of which it has none say -ENOSYS. */
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

/* Where the last component of a path begins, less the separator; null: the path has one component only. */
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
    uint64_t device; /* with `inode`: which object this is, for as long as somebody has it open */
    uint64_t inode;
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    int64_t modified_wall_ns;
    uint32_t owner_uid;
    uint32_t mode;
    bool regular;
    bool symbolic_link;
} bshm_os_info;

static inline bool bshm_os_same_object(const bshm_os_info *a, const bshm_os_info *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* Objects. No open follows a symbolic link in the last component, none blocks, and every file closes on exec. */
const char *bshm_os_object_directory(void);
int bshm_os_create(const char *path, bshm_os_file *file); /* for oneself alone; -EEXIST if there */
int bshm_os_set_mode(bshm_os_file file, uint32_t mode);
int bshm_os_open(const char *path, enum bshm_os_access access, bshm_os_file *file);
void bshm_os_close(bshm_os_file file);
int bshm_os_info_of(bshm_os_file file, bshm_os_info *info);
int bshm_os_info_at(const char *path, bshm_os_info *info); /* of the link itself, if it is one */
int bshm_os_resize(bshm_os_file file, uint64_t bytes);
int bshm_os_read(bshm_os_file file, void *buffer, size_t bytes, uint64_t offset); /* -ENODATA: the file ends before */
int bshm_os_rename(const char *from, const char *to, bool replace); /* without replace: -EEXIST if there */
int bshm_os_unlink(const char *path);
/* 0, or -EOPNOTSUPP with the file system's name in *kind: locks or mappings there do not mean what they must. */
int bshm_os_check_file_system(bshm_os_file file, const char **kind);

/* Memory behind a range that has none: backed now (-ENOSPC; nothing stays backed then), or given back. */
int bshm_os_allocate(bshm_os_file file, uint64_t offset, uint64_t bytes);
int bshm_os_punch(bshm_os_file file, uint64_t offset, uint64_t bytes);
uint64_t bshm_os_free_bytes(bshm_os_file file); /* of the file system that the file lies on */

enum bshm_os_map_flags {
    BSHM_OS_MAP_WRITE = 1,
    BSHM_OS_MAP_NOT_IN_CHILD = 2 /* a mapping keeps its file's locks alive, in a forked child too */
};
int bshm_os_map(bshm_os_file file, uint64_t offset, size_t bytes, unsigned flags, void **address);
void bshm_os_unmap(void *address, size_t bytes);
/* Fills the page tables so that the first use does not fault. Best effort, but -EFAULT is an answer: there is no memory
 * behind some of it, nor room for more, and touching it would be SIGBUS. (Before Linux 5.14 nobody can ask.) */
int bshm_os_prefault(void *address, size_t bytes, bool write);

/* Liveness locks: on one byte, never waiting, gone with their process. -EAGAIN: somebody else has it. Not to be asked for
 * again by who has it: some systems grant that, others refuse. */
int bshm_os_lock(bshm_os_file file, uint64_t byte, bool exclusive);
int bshm_os_downgrade_lock(bshm_os_file file, uint64_t byte); /* an exclusive lock of one's own becomes a shared one */
void bshm_os_unlock(bshm_os_file file, uint64_t byte);
/* 1: another holder has the exclusive lock; 0: none; negative errno. Not to be asked of a byte that one holds oneself. Read locks do not count: anybody can take one. */
int bshm_os_is_locked(bshm_os_file file, uint64_t byte);
/* 1: the first byte from `first` to `last` that another holder has locked in any way is *byte; 0: none. */
int bshm_os_find_locked(bshm_os_file file, uint64_t first, uint64_t last, uint64_t *byte);

/* A file whose locks a forked child must not keep alive. Registered, the child closes it before anything else runs
 * there. Unregister before closing it oneself, after unlocking. */
int bshm_os_register_file(bshm_os_file file);
/* No fork falls between the two: around opening and registering, forgetting and closing, mapping and MADV_DONTFORK. */
void bshm_os_block_fork(void);
void bshm_os_allow_fork(void);
void bshm_os_forget_file(bshm_os_file file);
/* Differs between a process and its forked children. */
uint32_t bshm_os_process_epoch(void);

/* Waiting on a shared word, which lies in a mapping of bshm_os_map; returns early on a wake, a signal, or when *word is not `value` (any more). */
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
