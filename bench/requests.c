/* requests.c - callgrind's client requests, for Python. */
#include <valgrind/callgrind.h>

void count_begin(void);
void count_end(const char *name);

void count_begin(void)
{
    CALLGRIND_ZERO_STATS;
    CALLGRIND_TOGGLE_COLLECT;
}

void count_end(const char *name)
{
    CALLGRIND_TOGGLE_COLLECT;
    CALLGRIND_DUMP_STATS_AT(name);
}
