/* fenced.h - memory between two inaccessible pages. */
#ifndef FENCED_H
#define FENCED_H

#include "check.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

typedef struct fenced {
    uint8_t *begin, *end;
    void *mapping;
    size_t mapped;
} fenced;

#ifdef _WIN32
static inline fenced new_fenced(size_t bytes)
{
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    size_t page = system.dwPageSize;
    fenced made;
    bytes = (bytes + page - 1) / page * page;
    made.mapped = bytes + 2 * page;
    made.mapping = VirtualAlloc(NULL, made.mapped, MEM_RESERVE, PAGE_NOACCESS);
    REQUIRE(made.mapping != NULL);
    made.begin = (uint8_t *)made.mapping + page;
    made.end = made.begin + bytes;
    REQUIRE(VirtualAlloc(made.begin, bytes, MEM_COMMIT, PAGE_READWRITE) != NULL);
    return made;
}

static inline void free_fenced(fenced *made)
{
    (void)VirtualFree(made->mapping, 0, MEM_RELEASE);
}
#else
static inline fenced new_fenced(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    fenced made;
    bytes = (bytes + page - 1) / page * page;
    made.mapped = bytes + 2 * page;
    made.mapping = mmap(NULL, made.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(made.mapping != MAP_FAILED);
    made.begin = (uint8_t *)made.mapping + page;
    made.end = made.begin + bytes;
    REQUIRE(mprotect(made.mapping, page, PROT_NONE) == 0 && mprotect(made.end, page, PROT_NONE) == 0);
    return made;
}

static inline void free_fenced(fenced *made)
{
    (void)munmap(made->mapping, made->mapped);
}
#endif

#endif
