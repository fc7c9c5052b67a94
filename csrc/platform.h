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

#define PLAT_PATH_BYTES 4096

/* The oldest system that has all this rests upon. Functions of which it has none say -ENOSYS. */
#if defined(__APPLE__)
#define PLAT_NEEDS "macOS 10.15 or later"
#elif defined(_WIN32)
#define PLAT_NEEDS "Windows 10 or later"
#else
#define PLAT_NEEDS "Linux 3.15 or later"
#endif

#ifdef _WIN32
typedef void *plat_file;
#define PLAT_NO_FILE ((void *)(intptr_t)-1) /* INVALID_HANDLE_VALUE */
#ifndef EDQUOT
#define EDQUOT 10069 /* WSAEDQUOT: errno.h has none */
#endif
#else
typedef int plat_file;
#define PLAT_NO_FILE (-1)
#endif

/* Where the last component of a path begins, less the separator; null: the path has one component only. */
static inline const char *plat_last_separator(const char *path)
{
    const char *last = strrchr(path, '/');
#ifdef _WIN32
    const char *backslash = strrchr(path, '\\');
    if (backslash && (!last || backslash > last))
        last = backslash;
#endif
    return last;
}

enum plat_access { PLAT_READ, PLAT_READ_WRITE };

typedef struct plat_info {
    uint64_t device; /* with `inode`: which object this is, for as long as somebody has it open */
    uint64_t inode;
    uint64_t size_bytes;
    uint64_t allocated_bytes;
    int64_t modified_wall_ns;
    uint32_t owner_uid;
    uint32_t mode;
    bool regular;
    bool symbolic_link;
} plat_info;

static inline bool plat_same_object(const plat_info *a, const plat_info *b)
{
    return a->device == b->device && a->inode == b->inode;
}

/* Objects. No open follows a symbolic link in the last component, none blocks, and every file closes on exec. */
const char *plat_object_directory(void);
int plat_create(const char *path, plat_file *file); /* for oneself alone; -EEXIST if there */
int plat_set_mode(plat_file file, uint32_t mode);
int plat_open(const char *path, enum plat_access access, plat_file *file);
void plat_close(plat_file file);
int plat_info_of(plat_file file, plat_info *info);
int plat_info_at(const char *path, plat_info *info); /* of the link itself, if it is one */
int plat_resize(plat_file file, uint64_t bytes);
int plat_read(plat_file file, void *buffer, size_t bytes, uint64_t offset); /* -ENODATA: the file ends before */
int plat_rename(const char *from, const char *to, bool replace);            /* without replace: -EEXIST if there */
int plat_unlink(const char *path);
/* 0, or -EOPNOTSUPP with the file system's name in *kind: locks or mappings there do not mean what they must. */
int plat_supported(plat_file file, const char **kind);

/* Memory behind a range that has none: backed now (-ENOSPC; nothing stays backed then), or given back. */
int plat_back(plat_file file, uint64_t offset, uint64_t bytes);
int plat_unback(plat_file file, uint64_t offset, uint64_t bytes);
uint64_t plat_free_bytes(plat_file file); /* of the file system that the file lies on */

enum plat_map_flags {
    PLAT_MAP_WRITE = 1,
    PLAT_MAP_NOT_IN_CHILD = 2 /* a mapping keeps its file's locks alive, in a forked child too */
};
int plat_map(plat_file file, uint64_t offset, size_t bytes, unsigned flags, void **address);
void plat_unmap(void *address, size_t bytes);
/* Fills the page tables so that the first use does not fault. Best effort, but -EFAULT is an answer: there is no memory
 * behind some of it, nor room for more, and touching it would be SIGBUS. (Before Linux 5.14 nobody can ask.) */
int plat_prefault(void *address, size_t bytes, bool write);

/* Liveness locks: on one byte, never waiting, gone with their process. -EAGAIN: somebody else has it. Not to be asked for
 * again by who has it: some systems grant that, others refuse. */
int plat_lock(plat_file file, uint64_t byte, bool exclusive);
int plat_weaken_lock(plat_file file, uint64_t byte); /* an exclusive lock of one's own becomes a shared one */
void plat_unlock(plat_file file, uint64_t byte);
/* 1: another holder has the exclusive lock; 0: none; negative errno. Not to be asked of a byte that one holds oneself. Read locks do not count: anybody can take one. */
int plat_locked(plat_file file, uint64_t byte);
/* 1: the first byte from `first` to `last` that another holder has locked in any way is *byte; 0: none. */
int plat_next_locked(plat_file file, uint64_t first, uint64_t last, uint64_t *byte);

/* A file whose locks a forked child must not keep alive. Registered, the child closes it before anything else runs
 * there. Unregister before closing it oneself, after unlocking. */
int plat_keep_from_children(plat_file file);
/* No fork falls between the two: around opening and registering, forgetting and closing, mapping and MADV_DONTFORK. */
void plat_no_fork_begin(void);
void plat_no_fork_end(void);
void plat_forget_file(plat_file file);
/* Differs between a process and its forked children. */
uint32_t plat_process_epoch(void);

/* Waiting on a shared word, which lies in a mapping of plat_map; returns early on a wake, a signal, or when *word is not `value` (any more). */
void plat_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns);
void plat_wake_all(uint32_t *word);
void plat_sleep(int64_t ns); /* returns early on a signal */

int64_t plat_now_ns(void);        /* CLOCK_MONOTONIC */
int64_t plat_coarse_now_ns(void); /* the same clock, a few ms behind, several times cheaper */
int64_t plat_wall_ns(void);
int plat_random(void *buffer, size_t bytes);
uint32_t plat_process_id(void);
void plat_process_name(char *name, size_t bytes);
uint32_t plat_user_id(void);

#ifdef _WIN32
typedef struct plat_mutex {
    void *word; /* an SRWLOCK */
} plat_mutex;
void plat_mutex_init(plat_mutex *mutex);
void plat_mutex_destroy(plat_mutex *mutex);
void plat_mutex_lock(plat_mutex *mutex);
void plat_mutex_unlock(plat_mutex *mutex);
#else
typedef pthread_mutex_t plat_mutex;
static inline void plat_mutex_init(plat_mutex *mutex)
{
    (void)pthread_mutex_init(mutex, NULL);
}
static inline void plat_mutex_destroy(plat_mutex *mutex)
{
    (void)pthread_mutex_destroy(mutex);
}
static inline void plat_mutex_lock(plat_mutex *mutex)
{
    (void)pthread_mutex_lock(mutex);
}
static inline void plat_mutex_unlock(plat_mutex *mutex)
{
    (void)pthread_mutex_unlock(mutex);
}
#endif

#endif
