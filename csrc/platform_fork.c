/* platform_fork.c - descriptors that a forked child closes before anything else runs there.
 *
 * A lock of an open file description lives as long as any process has that description: a forked child would keep its
 * dead parent's writer lock held. The child's handler runs where other threads no longer exist, so it takes no lock
 * and allocates nothing: a fixed register of descriptors, each place an atomic integer.
 */
#include "platform.h"
#ifndef _WIN32

#include "ordering.h"

#include <errno.h>
#include <unistd.h>

#define PLACES 4096 /* files of this kind that one process can have; each writer and each attached reader is one */

static int places[PLACES]; /* descriptor + 1; 0: free */
static int places_used;    /* no place at or beyond this one was ever taken */
static int process_epoch;
/* Held while a file is open and not registered, or a mapping made and not yet kept from children; and by every fork. */
static pthread_mutex_t fork_gap = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void close_in_child(void)
{
    bshm_register_store(&process_epoch, bshm_register_load(&process_epoch) + 1);
    int used = bshm_register_load(&places_used);
    for (int i = 0; i < used; i++) {
        int file = bshm_register_load(&places[i]) - 1;
        if (file >= 0)
            (void)close(file); /* not F_UNLCK, which would drop the parent's lock */
        bshm_register_store(&places[i], 0);
    }
    (void)pthread_mutex_unlock(&fork_gap); /* locked by this thread, before it was two */
}

static void close_the_gap(void)
{
    (void)pthread_mutex_lock(&fork_gap);
}

static void open_the_gap(void)
{
    (void)pthread_mutex_unlock(&fork_gap);
}

static void install_fork_handler(void)
{
    (void)pthread_atfork(close_the_gap, open_the_gap, close_in_child);
}

void plat_no_fork_begin(void)
{
    (void)pthread_once(&fork_once, install_fork_handler);
    close_the_gap();
}

void plat_no_fork_end(void)
{
    open_the_gap();
}

int plat_keep_from_children(plat_file file)
{
    (void)pthread_once(&fork_once, install_fork_handler);
    for (int i = 0; i < PLACES; i++) {
        int used = bshm_register_load(&places_used);
        if (i >= used)
            (void)bshm_register_claim(&places_used, used, i + 1); /* before the place is filled: the child must look */
        if (bshm_register_load(&places[i]) == 0 && bshm_register_claim(&places[i], 0, file + 1))
            return 0;
    }
    return -EMFILE;
}

void plat_forget_file(plat_file file)
{
    int used = bshm_register_load(&places_used);
    for (int i = 0; i < used; i++)
        if (bshm_register_claim(&places[i], file + 1, 0))
            return;
}

uint32_t plat_process_epoch(void)
{
    (void)pthread_once(&fork_once, install_fork_handler); /* who asks wants to be told of forks from now on */
    return (uint32_t)bshm_register_load(&process_epoch);
}

#endif
