/* check.h - assertions and a test runner. Test functions are named as sentences; RUN prints them as such. */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_TOLD 20 /* how many failures are printed; a loop may cause thousands */

/* Relaxed operations: threads check too, and the checks of a test for races must not order them. */
static unsigned check_count;
static unsigned check_failures;

/* True: a failure that should be printed. */
static inline bool check_tells(bool holds)
{
    (void)__atomic_fetch_add(&check_count, 1, __ATOMIC_RELAXED);
    return !holds && __atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED) < CHECK_TOLD;
}

static inline bool check_true(bool holds, const char *text, const char *file, int line)
{
    if (check_tells(holds))
        printf("    %s:%d: not so: %s\n", file, line, text);
    return holds;
}

static inline bool check_equal(uint64_t found, uint64_t expected, const char *text, const char *file, int line)
{
    if (check_tells(found == expected))
        printf("    %s:%d: %s is %lld (0x%llx), expected %lld (0x%llx)\n", file, line, text, (long long)found,
               (unsigned long long)found, (long long)expected, (unsigned long long)expected);
    return found == expected;
}

static inline bool check_contains(const char *found, const char *part, const char *text, const char *file, int line)
{
    bool holds = strstr(found, part) != NULL;
    if (check_tells(holds))
        printf("    %s:%d: %s is \"%s\", expected \"%s\" in it\n", file, line, text, found, part);
    return holds;
}

#define CHECK(holds)                 check_true((holds), #holds, __FILE__, __LINE__)
#define CHECK_EQUAL(found, expected) check_equal((uint64_t)(found), (uint64_t)(expected), #found, __FILE__, __LINE__)
#define CHECK_CONTAINS(found, part)  check_contains((found), (part), #found, __FILE__, __LINE__)
/* For conditions that the rest of the test depends on. */
#define REQUIRE(holds)                                                                                                 \
    do {                                                                                                               \
        if (!CHECK(holds))                                                                                             \
            exit(1);                                                                                                   \
    } while (0)

static inline unsigned check_failures_so_far(void)
{
    return __atomic_load_n(&check_failures, __ATOMIC_RELAXED);
}

static inline void check_run(const char *name, void (*test)(void))
{
    unsigned before = check_failures_so_far();
    printf("  ");
    for (const char *c = name; *c; c++)
        (void)putchar(*c == '_' ? ' ' : *c);
    (void)putchar('\n');
    (void)fflush(stdout);
    test();
    if (check_failures_so_far() != before)
        printf("    FAILED: %u checks\n", check_failures_so_far() - before);
    (void)fflush(stdout);
}

#define RUN(test) check_run(#test, test)

static inline int check_summary(void)
{
    unsigned failures = check_failures_so_far();
    printf("%u checks, %u failed\n", __atomic_load_n(&check_count, __ATOMIC_RELAXED), failures);
    return failures ? 1 : 0;
}

#endif
