/* child.h - runs this program again as another process, which is killed at the end. */
#ifndef CHILD_H
#define CHILD_H

#include "fixture.h"

#ifdef _WIN32
typedef HANDLE child_process;

static inline child_process start_child(const char *program, const char *name, const char *role,
                                        void (*play)(const char *role))
{
    (void)play; /* main does */
    intptr_t started = _spawnl(_P_NOWAIT, program, program, name, role, (char *)NULL);
    REQUIRE(started != -1);
    return (HANDLE)started;
}

static inline void kill_child(child_process child)
{
    REQUIRE(TerminateProcess(child, 9) && WaitForSingleObject(child, 30000) == WAIT_OBJECT_0);
    (void)CloseHandle(child);
}
#else
#include <signal.h>

typedef pid_t child_process;

/* A separate program, which shares only the name; most tests just fork. If the kernel cannot start it, because it
 * is for another processor and runs in qemu, the fork plays the role itself. */
static inline child_process start_child(const char *program, const char *name, const char *role,
                                        void (*play)(const char *role))
{
    (void)fflush(stdout);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)execl(program, program, name, role, (char *)NULL);
        play(role);
        _exit(127);
    }
    return child;
}

static inline void kill_child(child_process child)
{
    REQUIRE(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}
#endif

#endif
