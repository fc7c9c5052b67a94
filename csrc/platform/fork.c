/* fork.c - files that a forked child closes before anything else runs there.
 *
 * A lock of an open file description lives while any process has that description: a forked child would keep its dead
 * parent's writer lock. The child's handler runs where other threads no longer exist, so it takes no lock and
 * allocates nothing: the register is a fixed array of descriptors, each entry an atomic integer.
 */
#include "../platform.h"
#ifndef _WIN32

#include "../ordering.h"

#include <errno.h>
#include <unistd.h>

#define MAX_FILES 4096 /* per process: each writer and each attached reader has one */

static int files[MAX_FILES]; /* descriptor + 1; 0: free */
static int files_used;       /* no entry from here on was ever used */
static int process_epoch;
/* Held while a file is open but not registered, or mapped but not kept from children; and by every fork. */
static pthread_mutex_t fork_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void close_in_child(void)
{
    bshm_register_store(&process_epoch, bshm_register_load(&process_epoch) + 1);
    int used = bshm_register_load(&files_used);
    for (int i = 0; i < used; i++) {
        int file = bshm_register_load(&files[i]) - 1;
        if (file >= 0)
            (void)close(file); /* not F_UNLCK, which would drop the parent's lock */
        bshm_register_store(&files[i], 0);
    }
    (void)pthread_mutex_unlock(&fork_mutex); /* the parent's thread, which this thread was, locked it */
}

static void lock_fork_mutex(void)
{
    (void)pthread_mutex_lock(&fork_mutex);
}

static void unlock_fork_mutex(void)
{
    (void)pthread_mutex_unlock(&fork_mutex);
}

static void install_fork_handler(void)
{
    (void)pthread_atfork(lock_fork_mutex, unlock_fork_mutex, close_in_child);
}

void bshm_os_block_fork(void)
{
    (void)pthread_once(&fork_once, install_fork_handler);
    lock_fork_mutex();
}

void bshm_os_allow_fork(void)
{
    unlock_fork_mutex();
}

int bshm_os_register_file(bshm_os_file file)
{
    (void)pthread_once(&fork_once, install_fork_handler);
    for (int i = 0; i < MAX_FILES; i++) {
        int used = bshm_register_load(&files_used);
        if (i >= used)
            (void)bshm_register_claim(&files_used, used, i + 1); /* first: a child looks below files_used only */
        if (bshm_register_load(&files[i]) == 0 && bshm_register_claim(&files[i], 0, file + 1))
            return 0;
    }
    return -EMFILE;
}

void bshm_os_forget_file(bshm_os_file file)
{
    int used = bshm_register_load(&files_used);
    for (int i = 0; i < used; i++)
        if (bshm_register_claim(&files[i], file + 1, 0))
            return;
}

uint32_t bshm_os_process_epoch(void)
{
    (void)pthread_once(&fork_once, install_fork_handler); /* the caller relies on forks being counted from now on */
    return (uint32_t)bshm_register_load(&process_epoch);
}

#endif
