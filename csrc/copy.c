/* copy.c - copy kernels, chosen once per process by processor and per call by size. */
#include "copy.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define BSHM_X86_KERNELS 1
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define BSHM_NEON_KERNEL 1
#endif

/* Which kernel a frame gets. Chosen by what it costs its writer plus a reader on another core that reads every pixel.
 * `rep movsb` took, compared with memcpy: 0.9 MB 1.03 of the time, 1.5 MB 0.95; with streaming stores: 2.8 MB 0.71,
 * 6.2 MB 0.88, 11 MB 0.98, 25 MB 1.09 (every 2 ms, two slots in turn; Zen, 32 MB of L3).
 *
 * Plain stores first fetch the lines that they overwrite, often from the reader's core. `rep movsb` does not, and
 * leaves the frame in the cache, where the reader finds it. Streaming stores do not fetch either, and leave the cache
 * to others, which is worth more where a few frames would fill it. */
#define STRING_FROM_BYTES ((size_t)1 << 20)
#define STRING_MAX_BYTES  ((size_t)8 << 20)
#define STREAM_FROM_BYTES ((size_t)2 << 20) /* and from here, if the processor has no fast `rep movsb` */

typedef void (*copy_kernel)(uint8_t *destination, const uint8_t *source, size_t bytes);

static void copy_plain(uint8_t *destination, const uint8_t *source, size_t bytes)
{
    memcpy(destination, source, bytes);
}

#if defined(BSHM_X86_KERNELS) || defined(BSHM_NEON_KERNEL)
/* All accept any alignment: bytes before the first 64-byte line of the destination are copied by memcpy. */
#define LINE_BYTES 64

static size_t bytes_to_line(const uint8_t *destination, size_t bytes)
{
    size_t head = (size_t)(-(uintptr_t)destination & (LINE_BYTES - 1));
    return head < bytes ? head : bytes;
}
#endif

#ifdef BSHM_X86_KERNELS
/* Streaming stores, and a prefetch of the source one page ahead: the processor's own prefetchers stop at the end of a
 * page. NTA keeps the source out of L2, where the publishing code is. For 25 MB this takes 0.95 of the time without
 * prefetch; one or four lines at a time and 64-byte stores (AVX-512) were not faster. */
#define AHEAD_BYTES 4096

__attribute__((target("avx2"))) static void copy_avx2(uint8_t *destination, const uint8_t *source, size_t bytes)
{
    size_t head = bytes_to_line(destination, bytes);
    memcpy(destination, source, head);
    destination += head, source += head, bytes -= head;
    for (; bytes >= 2 * LINE_BYTES; destination += 2 * LINE_BYTES, source += 2 * LINE_BYTES, bytes -= 2 * LINE_BYTES) {
        _mm_prefetch((const char *)source + AHEAD_BYTES, _MM_HINT_NTA); /* past the end too: it cannot fault */
        _mm_prefetch((const char *)source + AHEAD_BYTES + LINE_BYTES, _MM_HINT_NTA);
        __m256i a = _mm256_loadu_si256((const __m256i *)(source + 0));
        __m256i b = _mm256_loadu_si256((const __m256i *)(source + 32));
        __m256i c = _mm256_loadu_si256((const __m256i *)(source + 64));
        __m256i d = _mm256_loadu_si256((const __m256i *)(source + 96));
        _mm256_stream_si256((__m256i *)(destination + 0), a);
        _mm256_stream_si256((__m256i *)(destination + 32), b);
        _mm256_stream_si256((__m256i *)(destination + 64), c);
        _mm256_stream_si256((__m256i *)(destination + 96), d);
    }
    memcpy(destination, source, bytes);
}
#endif

#ifdef BSHM_NEON_KERNEL
/* STNP is a hint, which a processor may ignore. It has no portable intrinsic. */
static void copy_neon(uint8_t *destination, const uint8_t *source, size_t bytes)
{
    size_t head = bytes_to_line(destination, bytes);
    memcpy(destination, source, head);
    destination += head, source += head, bytes -= head;
    for (; bytes >= LINE_BYTES; destination += LINE_BYTES, source += LINE_BYTES, bytes -= LINE_BYTES)
        __asm__ volatile("ldp q0, q1, [%1]\n\t"
                         "ldp q2, q3, [%1, #32]\n\t"
                         "stnp q0, q1, [%0]\n\t"
                         "stnp q2, q3, [%0, #32]"
                         :
                         : "r"(destination), "r"(source)
                         : "v0", "v1", "v2", "v3", "memory");
    memcpy(destination, source, bytes);
}
#endif

#ifdef BSHM_X86_KERNELS
static void copy_string(uint8_t *destination, const uint8_t *source, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(destination), "+S"(source), "+c"(bytes) : : "memory");
}

/* "Enhanced rep movsb": Intel from 2012 on, AMD from Zen 3 on. Checked once: a virtual machine traps `cpuid`. */
static bool has_fast_string;

__attribute__((constructor)) static void ask_for_fast_string(void)
{
    unsigned a, b, c, d;
    has_fast_string = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 9));
}
#endif

static copy_kernel streaming_kernel(const char **name)
{
#ifdef BSHM_X86_KERNELS
    if (__builtin_cpu_supports("avx2")) {
        *name = "avx2-stream";
        return copy_avx2;
    }
#elif defined(BSHM_NEON_KERNEL)
    *name = "neon-stream";
    return copy_neon;
#endif
    *name = "memcpy";
    return copy_plain;
}

static copy_kernel kernel_for(size_t bytes, const char **name)
{
    *name = "memcpy";
    if (bytes < STRING_FROM_BYTES)
        return copy_plain;
#ifdef BSHM_X86_KERNELS
    if (has_fast_string && bytes < STRING_MAX_BYTES) {
        *name = "rep-movsb";
        return copy_string;
    }
#endif
    return bytes < STREAM_FROM_BYTES ? copy_plain : streaming_kernel(name);
}

const char *bshm_copy_kernel(size_t bytes)
{
    const char *name;
    (void)kernel_for(bytes, &name);
    return name;
}

void bshm_copy_rows(void *destination, size_t destination_stride, const void *source, ptrdiff_t source_stride,
                    size_t row_bytes, size_t rows)
{
    uint8_t *to = destination;
    const uint8_t *from = source;
    const char *name;
    copy_kernel kernel = kernel_for(row_bytes * rows, &name);
    if (source_stride == (ptrdiff_t)row_bytes && destination_stride == row_bytes) {
        kernel(to, from, row_bytes * rows);
        return;
    }
    for (size_t row = 0; row < rows; row++, to += destination_stride, from += source_stride)
        kernel(to, from, row_bytes);
}
