/* floors.c - lower bounds for any transport: a copy with nothing around it, and a wake-up with nothing around it.
 *
 * Built by floors.py when benchmarks run. It shares no code with the package, because it is the yardstick.
 */
#include <linux/futex.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LINE 64u

int64_t floor_now_ns(void);
const char *floor_kernel_name(unsigned kernel);
int64_t floor_copy_ns(unsigned kernel, void *to, const void *from, size_t bytes);
int64_t floor_wake(uint32_t *word);
int64_t floor_wait(const uint32_t *word, uint32_t seen, int64_t timeout_ns);

int64_t floor_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---------------------------------------------------------------- copies; `to` and `bytes` are multiples of a line */

static void copy_memcpy(uint8_t *to, const uint8_t *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static int always(void)
{
    return 1;
}

#if defined(__x86_64__)
static void copy_movsb(uint8_t *to, const uint8_t *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

static int has_avx512(void)
{
    return __builtin_cpu_supports("avx512f");
}

__attribute__((target("avx2"))) static void copy_avx2(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LINE) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(from + at));
        __m256i high = _mm256_loadu_si256((const __m256i *)(from + at + 32));
        _mm256_stream_si256((__m256i *)(to + at), low);
        _mm256_stream_si256((__m256i *)(to + at + 32), high);
    }
    _mm_sfence();
}

/* The same with a prefetch of the source. */
__attribute__((target("avx2"))) static void copy_avx2_ahead(uint8_t *to, const uint8_t *from, size_t bytes)
{
    enum { AHEAD = 1024 };
    for (size_t at = 0; at < bytes; at += LINE) {
        _mm_prefetch((const char *)(from + at + AHEAD), _MM_HINT_NTA);
        __m256i low = _mm256_loadu_si256((const __m256i *)(from + at));
        __m256i high = _mm256_loadu_si256((const __m256i *)(from + at + 32));
        _mm256_stream_si256((__m256i *)(to + at), low);
        _mm256_stream_si256((__m256i *)(to + at + 32), high);
    }
    _mm_sfence();
}

__attribute__((target("avx512f"))) static void copy_avx512(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += LINE)
        _mm512_stream_si512((__m512i *)(to + at), _mm512_loadu_si512(from + at));
    _mm_sfence();
}
#elif defined(__aarch64__)
static void copy_stnp(uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (const uint8_t *end = from + bytes; from < end; from += LINE, to += LINE)
        __asm__ volatile("ldp q0, q1, [%0]\n\tldp q2, q3, [%0, #32]\n\tstnp q0, q1, [%1]\n\tstnp q2, q3, [%1, #32]"
                         :
                         : "r"(from), "r"(to)
                         : "v0", "v1", "v2", "v3", "memory");
    __asm__ volatile("dmb ish" : : : "memory");
}
#endif

static const struct kernel {
    const char *name;
    int (*supported)(void);
    void (*copy)(uint8_t *to, const uint8_t *from, size_t bytes);
} kernels[] = {
    {"memcpy", always, copy_memcpy},
#if defined(__x86_64__)
    {"rep movsb", always, copy_movsb},
    {"avx2, past the cache", has_avx2, copy_avx2},
    {"avx2, ahead", has_avx2, copy_avx2_ahead},
    {"avx512, past the cache", has_avx512, copy_avx512},
#elif defined(__aarch64__)
    {"stnp", always, copy_stnp},
#endif
};

/* The kernel's name; empty if this processor does not support it; null after the last one. */
const char *floor_kernel_name(unsigned kernel)
{
    if (kernel >= sizeof kernels / sizeof *kernels)
        return NULL;
    return kernels[kernel].supported() ? kernels[kernel].name : "";
}

int64_t floor_copy_ns(unsigned kernel, void *to, const void *from, size_t bytes)
{
    int64_t begin = floor_now_ns();
    kernels[kernel].copy(to, from, bytes);
    return floor_now_ns() - begin;
}

/* ---------------------------------------------------------------- a bare wake-up between processes */

/* Returns the time just before the word is changed. */
int64_t floor_wake(uint32_t *word)
{
    int64_t before = floor_now_ns();
    (void)__atomic_add_fetch(word, 1, __ATOMIC_RELEASE);
    (void)syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    return before;
}

/* Returns the time when the word was seen to differ from `seen`; 0 after the timeout. */
int64_t floor_wait(const uint32_t *word, uint32_t seen, int64_t timeout_ns)
{
    const struct timespec timeout = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen)
        (void)syscall(SYS_futex, word, FUTEX_WAIT, seen, &timeout, NULL, 0);
    return __atomic_load_n(word, __ATOMIC_ACQUIRE) == seen ? 0 : floor_now_ns();
}
