/* fork.c - what a forked child does before anything else runs there.
 *
 * A lock of an open file description lives while any process has that description, and memory while any process maps
 * it: a forked child would keep its dead parent's writer lock, and every segment that is replaced later. So everything
 * that has such files and mappings is in one list, and in the child each member releases its own.
 */
#include "../platform.h"
#ifndef _WIN32

#include <unistd.h>

/* Held during every change of the list and of the files and mappings in its members, and during every fork: the child
 * finds everything consistent. */
static pthread_mutex_t fork_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static bshm_os_fork_member *first;

static void unlink_member(bshm_os_fork_member *member)
{
    if (member->previous)
        member->previous->next = member->next;
    else
        first = member->next;
    if (member->next)
        member->next->previous = member->previous;
}

static void let_go_in_child(void)
{
    bshm_os_fork_member *next;
    for (bshm_os_fork_member *member = first; member; member = next) {
        next = member->next;
        if (!member->in_child(member))
            unlink_member(member);
    }
    (void)pthread_mutex_unlock(&fork_mutex); /* locked by the parent's thread that this one is a copy of */
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
    (void)pthread_atfork(lock_fork_mutex, unlock_fork_mutex, let_go_in_child);
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

void bshm_os_join_fork_list(bshm_os_fork_member *member, bool (*in_child)(bshm_os_fork_member *member))
{
    bshm_os_block_fork();
    member->in_child = in_child;
    member->previous = NULL;
    member->next = first;
    if (first)
        first->previous = member;
    first = member;
    bshm_os_allow_fork();
}

void bshm_os_leave_fork_list(bshm_os_fork_member *member)
{
    bshm_os_block_fork();
    unlink_member(member);
    bshm_os_allow_fork();
}

#endif
