/* windows_wait.c - mappings, waiting for a shared word to change, clocks, mutexes.
 *
 * WaitOnAddress works within one process only. Across processes each segment has two events, named after the file. A
 * process that has read the value v sleeps on event v & 1. The change from v to v + 1 sets that event, after
 * resetting the other one, on which processes that read v + 1 will sleep. So one change wakes all. A process that is
 * late to sleep can miss only two changes in a row; the next change, or the end of its wait, wakes it. The writer
 * creates the events. If there are none, processes poll every millisecond.
 */
#include "../platform.h"
#ifdef _WIN32

#include "../ordering.h"
#include "windows_base.h"
#include "windows_names.h"
#include "windows_security.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S    1000000000
#define NS_PER_MS   1000000
#define POLL_NS     NS_PER_MS
#define EVENT_LOOKS (20 * (int64_t)NS_PER_MS) /* pause between attempts to open events that do not exist */

#ifndef CREATE_WAITABLE_TIMER_HIGH_RESOLUTION
#define CREATE_WAITABLE_TIMER_HIGH_RESOLUTION 2
#endif

/* ---------------------------------------------------------------- mappings */

typedef struct mapping {
    struct mapping *next;
    uint8_t *address;
    size_t bytes;
    uint64_t device, inode;
    HANDLE file; /* without locks: keeps the content of a removed file while it is mapped */
    HANDLE events[2];
    int64_t next_event_look_ns;
    wchar_t path[]; /* its path when it was mapped */
} mapping;

static mapping *mappings;
static SRWLOCK mappings_lock = SRWLOCK_INIT;

static mapping *new_mapping(bshm_os_file file)
{
    wchar_t path[WINDOWS_PATH_UNITS];
    DWORD units = GetFinalPathNameByHandleW(file, path, WINDOWS_PATH_UNITS, 0);
    if (units >= WINDOWS_PATH_UNITS)
        units = 0;
    mapping *made = calloc(1, sizeof *made + (units + 1) * sizeof *path);
    if (!made)
        return NULL;
    memcpy(made->path, path, units * sizeof *path);
    made->file = ReOpenFile(file, FILE_READ_ATTRIBUTES, WINDOWS_SHARE_ALL, 0);
    (void)bshm_windows_identify(file, &made->device, &made->inode);
    return made;
}

static void drop_mapping(mapping *dropped)
{
    for (int i = 0; i < 2; i++)
        if (dropped->events[i])
            (void)CloseHandle(dropped->events[i]);
    if (dropped->file != INVALID_HANDLE_VALUE)
        (void)CloseHandle(dropped->file);
    if (dropped->path[0] && !bshm_windows_path_is(dropped->path, dropped->device, dropped->inode))
        bshm_windows_remove_leftovers(dropped->path); /* it lost its name: this may have been the last mapping */
    free(dropped);
}

static int map(bshm_os_file file, uint64_t offset, size_t bytes, bool write, void **address)
{
    HANDLE section = CreateFileMappingW(file, NULL, write ? PAGE_READWRITE : PAGE_READONLY, 0, 0, NULL);
    if (!section)
        return bshm_windows_error();
    *address = MapViewOfFile(section, write ? FILE_MAP_READ | FILE_MAP_WRITE : FILE_MAP_READ, (DWORD)(offset >> 32),
                             (DWORD)offset, bytes);
    int rc = *address ? 0 : bshm_windows_error();
    (void)CloseHandle(section); /* the view keeps it */
    return rc;
}

int bshm_os_map(bshm_os_file file, uint64_t offset, size_t bytes, unsigned flags, void **address)
{
    *address = NULL;
    mapping *made = new_mapping(file);
    if (!made)
        return -ENOMEM;
    int rc = map(file, offset, bytes, flags & BSHM_OS_MAP_WRITE, address);
    if (rc < 0) {
        if (made->file != INVALID_HANDLE_VALUE)
            (void)CloseHandle(made->file);
        free(made);
        return rc;
    }
    made->address = *address;
    made->bytes = bytes;
    AcquireSRWLockExclusive(&mappings_lock);
    made->next = mappings;
    mappings = made;
    ReleaseSRWLockExclusive(&mappings_lock);
    return 0;
}

void bshm_os_unmap(void *address, size_t bytes)
{
    (void)bytes;
    if (!address)
        return;
    AcquireSRWLockExclusive(&mappings_lock);
    mapping **link = &mappings;
    while (*link && (*link)->address != address)
        link = &(*link)->next;
    mapping *found = *link;
    if (found)
        *link = found->next;
    ReleaseSRWLockExclusive(&mappings_lock);
    (void)UnmapViewOfFile(address);
    if (found)
        drop_mapping(found);
}

void bshm_os_blank(void *address, size_t bytes, unsigned flags)
{
    (void)address, (void)bytes, (void)flags; /* something else could be mapped there in between */
}

int bshm_os_prefault(void *address, size_t bytes, bool write)
{
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    for (size_t at = 0; at < bytes; at += system.dwPageSize) /* a mapped file cannot be truncated */
        bshm_touch((uint8_t *)address + at, write);
    return 0;
}

/* ---------------------------------------------------------------- waiting */

static HANDLE make_event(const wchar_t *name)
{
    SECURITY_ATTRIBUTES security = {.nLength = sizeof security};
    if (bshm_windows_descriptor_of_event(&security.lpSecurityDescriptor) < 0)
        return NULL;
    HANDLE event = CreateEventW(&security, TRUE, FALSE, name);
    (void)LocalFree(security.lpSecurityDescriptor);
    return event;
}

/* Called under the lock. */
static void find_events(mapping *of, bool make)
{
    int64_t now = bshm_os_now_ns();
    if (now < of->next_event_look_ns)
        return;
    of->next_event_look_ns = now + EVENT_LOOKS;
    for (int i = 0; i < 2; i++) {
        wchar_t name[80];
        /* Global: visible in every session. Unlike a section, an event can be created there without privilege. */
        (void)swprintf(name, sizeof name / sizeof *name, L"Global\\billiards_shm-%llx-%llx-%d",
                       (unsigned long long)of->device, (unsigned long long)of->inode, i);
        if (!of->events[i])
            of->events[i] = make ? make_event(name) : OpenEventW(SYNCHRONIZE, FALSE, name);
    }
}

/* False: there are none. The handles stay valid while the caller holds the mapping. */
static bool events_of(const void *word, bool make, HANDLE events[2])
{
    AcquireSRWLockExclusive(&mappings_lock);
    mapping *of = mappings;
    while (of && ((const uint8_t *)word < of->address || (const uint8_t *)word >= of->address + of->bytes))
        of = of->next;
    if (of && (!of->events[0] || !of->events[1]))
        find_events(of, make);
    events[0] = of ? of->events[0] : NULL;
    events[1] = of ? of->events[1] : NULL;
    ReleaseSRWLockExclusive(&mappings_lock);
    return events[0] && events[1];
}

void bshm_os_wait(const uint32_t *word, uint32_t value, int64_t timeout_ns)
{
    HANDLE events[2];
    int64_t poll_ns = timeout_ns < POLL_NS ? timeout_ns : POLL_NS;
    if (timeout_ns <= 0 || bshm_word_load(word) != value)
        return;
    if (!events_of(word, false, events)) {
        bshm_os_sleep(poll_ns);
        return;
    }
    int64_t timeout_ms = (timeout_ns + NS_PER_MS - 1) / NS_PER_MS;
    DWORD woken = WaitForSingleObject(events[value & 1], timeout_ms < 60000 ? (DWORD)timeout_ms : 60000);
    if (woken != WAIT_TIMEOUT && bshm_word_load(word) == value)
        bshm_os_sleep(poll_ns); /* the writer has not reset the event yet, or died before it could: do not spin */
}

void bshm_os_wake_all(uint32_t *word)
{
    HANDLE events[2];
    if (!events_of(word, true, events))
        return;
    uint32_t value = bshm_word_load(word);
    (void)ResetEvent(events[value & 1]);
    (void)SetEvent(events[(value & 1) ^ 1]);
}

void bshm_os_sleep(int64_t ns)
{
    LARGE_INTEGER due = {.QuadPart = -(ns / 100)}; /* relative, in 100 ns */
    if (ns <= 0)
        return;
    /* Sleep is accurate to 15 ms. The high-resolution timer exists since Windows 10 1803. */
    HANDLE timer = CreateWaitableTimerExW(NULL, NULL, CREATE_WAITABLE_TIMER_HIGH_RESOLUTION, TIMER_ALL_ACCESS);
    if (timer && SetWaitableTimer(timer, &due, 0, NULL, NULL, FALSE))
        (void)WaitForSingleObject(timer, INFINITE);
    else
        Sleep((DWORD)((ns + NS_PER_MS - 1) / NS_PER_MS));
    if (timer)
        (void)CloseHandle(timer);
}

/* ---------------------------------------------------------------- clocks, mutexes, processes */

int64_t bshm_os_now_ns(void)
{
    LARGE_INTEGER ticks;
    LARGE_INTEGER per_second;
    (void)QueryPerformanceFrequency(&per_second);
    (void)QueryPerformanceCounter(&ticks);
    int64_t seconds = ticks.QuadPart / per_second.QuadPart;
    return seconds * NS_PER_S + ticks.QuadPart % per_second.QuadPart * NS_PER_S / per_second.QuadPart;
}

int64_t bshm_os_coarse_now_ns(void)
{
    return bshm_os_now_ns(); /* read in user space; no other clock is cheaper */
}

int64_t bshm_os_wall_ns(void)
{
    FILETIME now;
    GetSystemTimePreciseAsFileTime(&now);
    uint64_t ticks = (uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime;
    return (int64_t)((ticks - UINT64_C(116444736000000000)) * 100);
}

_Static_assert(sizeof(bshm_os_mutex) == sizeof(SRWLOCK), "a bshm_os_mutex is an SRWLOCK");

void bshm_os_mutex_init(bshm_os_mutex *mutex)
{
    InitializeSRWLock((PSRWLOCK)mutex);
}

void bshm_os_mutex_destroy(bshm_os_mutex *mutex)
{
    (void)mutex;
}

void bshm_os_mutex_lock(bshm_os_mutex *mutex)
{
    AcquireSRWLockExclusive((PSRWLOCK)mutex);
}

void bshm_os_mutex_unlock(bshm_os_mutex *mutex)
{
    ReleaseSRWLockExclusive((PSRWLOCK)mutex);
}

/* There is no fork here, and handles are not inherited. */
void bshm_os_join_fork_list(bshm_os_fork_member *member, bool (*in_child)(bshm_os_fork_member *member))
{
    (void)member, (void)in_child;
}

void bshm_os_leave_fork_list(bshm_os_fork_member *member)
{
    (void)member;
}

void bshm_os_block_fork(void)
{
}

void bshm_os_allow_fork(void)
{
}

uint32_t bshm_os_process_id(void)
{
    return GetCurrentProcessId();
}

void bshm_os_process_name(char *name, size_t bytes)
{
    wchar_t path[WINDOWS_PATH_UNITS];
    DWORD units = GetModuleFileNameW(NULL, path, WINDOWS_PATH_UNITS);
    const wchar_t *last = units > 0 && units < WINDOWS_PATH_UNITS ? wcsrchr(path, L'\\') : NULL;
    char whole[4 * MAX_PATH] = "";
    if (last)
        (void)WideCharToMultiByte(CP_UTF8, 0, last + 1, -1, whole, sizeof whole, NULL, NULL);
    (void)snprintf(name, bytes, "%s", whole);
}

#endif
