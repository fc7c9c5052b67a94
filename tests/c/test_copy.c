/* The copy kernels: all that this processor supports, at every alignment and at the edges of mapped memory.
 *
 * copy.c itself is included, because its kernels are static and bshm_copy_rows chooses one by the processor.
 */
#include "copy.c"

#include "check.h"
#include "fenced.h"

#define LARGEST (9u << 20)
#define GUARD   0xA5u

static const char *kernel_names[3];
static copy_kernel kernels[3];
static size_t kernel_count;

static void add_kernel(const char *name, copy_kernel kernel)
{
    kernel_names[kernel_count] = name;
    kernels[kernel_count++] = kernel;
}

static void find_kernels(void)
{
    add_kernel("memcpy", copy_plain);
#ifdef BSHM_X86_KERNELS
    add_kernel("rep-movsb", copy_string); /* where it is slow, too */
    if (__builtin_cpu_supports("avx2"))
        add_kernel("avx2-stream", copy_avx2);
#elif defined(BSHM_NEON_KERNEL)
    add_kernel("neon-stream", copy_neon);
#endif
    printf("  kernels here:");
    for (size_t i = 0; i < kernel_count; i++)
        printf(" %s", kernel_names[i]);
    printf("\n");
}

static fenced source, destination;

static void fill_source(void)
{
    uint64_t state = 88172645463325252u;
    for (uint8_t *byte = source.begin; byte < source.end; byte++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        *byte = (uint8_t)state;
    }
}

static bool is_guard(const uint8_t *from, const uint8_t *to)
{
    for (; from < to; from++)
        if (*from != GUARD)
            return false;
    return true;
}

/* Copies to `to` and checks that all bytes are there and none of the `beside` bytes around them has changed. */
static bool copies(copy_kernel kernel, uint8_t *to, const uint8_t *from, size_t bytes, size_t beside)
{
    uint8_t *first = (size_t)(to - destination.begin) < beside ? destination.begin : to - beside;
    uint8_t *last = (size_t)(destination.end - to) < bytes + beside ? destination.end : to + bytes + beside;
    memset(first, GUARD, (size_t)(last - first));
    kernel(to, from, bytes);
    return memcmp(to, from, bytes) == 0 && is_guard(first, to) && is_guard(to + bytes, last);
}

static void every_kernel_copies_every_small_size_at_every_alignment(void)
{
    static const size_t from_offsets[] = {0, 1, 7, 31};
    for (size_t i = 0; i < kernel_count; i++)
        for (size_t bytes = 0; bytes <= 300; bytes++)
            for (size_t to = 0; to < 64; to++)
                for (size_t k = 0; k < sizeof from_offsets / sizeof from_offsets[0]; k++)
                    if (!CHECK(
                            copies(kernels[i], destination.begin + 64 + to, source.begin + from_offsets[k], bytes, 64)))
                        printf("    %s: %zu bytes, +%zu from +%zu\n", kernel_names[i], bytes, to, from_offsets[k]);
}

static void no_kernel_reads_or_writes_beyond_what_it_was_given(void)
{
    static const size_t large[] = {4095, 4096, 4097, 65536, 65537, 100003};
    for (size_t i = 0; i < kernel_count; i++) {
        for (size_t bytes = 0; bytes <= 600; bytes++) {
            CHECK(copies(kernels[i], destination.end - bytes, source.end - bytes, bytes, 300));
            CHECK(copies(kernels[i], destination.begin, source.begin, bytes, 300));
            CHECK(copies(kernels[i], destination.end - bytes, source.begin + 1, bytes, 300));
        }
        for (size_t k = 0; k < sizeof large / sizeof large[0]; k++) {
            CHECK(copies(kernels[i], destination.end - large[k], source.end - large[k], large[k], 300));
            CHECK(copies(kernels[i], destination.begin, source.begin, large[k], 300));
        }
    }
}

static void large_blocks_arrive_whole_from_and_to_any_alignment(void)
{
    static const size_t sizes[] = {
        STRING_FROM_BYTES - 1,   STRING_FROM_BYTES + 1, STREAM_FROM_BYTES - 1, STREAM_FROM_BYTES, STREAM_FROM_BYTES + 1,
        STREAM_FROM_BYTES + 255, STRING_MAX_BYTES - 1,  STRING_MAX_BYTES,      1920u * 1080 + 17, LARGEST - 128};
    static const size_t offsets[] = {0, 1, 8, 63};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t k = 0; k < sizeof offsets / sizeof offsets[0]; k++) {
            uint8_t *to = destination.begin + offsets[k];
            const uint8_t *from = source.begin + offsets[sizeof offsets / sizeof offsets[0] - 1 - k];
            memset(destination.begin, GUARD, LARGEST);
            bshm_copy_rows(to, sizes[i], from, (ptrdiff_t)sizes[i], sizes[i], 1);
            CHECK(memcmp(to, from, sizes[i]) == 0);
            CHECK(is_guard(destination.begin, to) && is_guard(to + sizes[i], destination.begin + LARGEST));
        }
}

static void small_blocks_stay_in_the_cache_and_large_ones_bypass_it(void)
{
    const char *largest;
    (void)streaming_kernel(&largest); /* memcpy where there is no kernel */
    const char *small = "memcpy";
    const char *large = largest;
    CHECK(strcmp(bshm_copy_kernel(0), "memcpy") == 0);
    CHECK(strcmp(bshm_copy_kernel(STRING_FROM_BYTES - 1), "memcpy") == 0);
#ifdef BSHM_X86_KERNELS
    for (int fast = 1; fast >= 0; fast--) {
        has_fast_string = fast;
        small = fast ? "rep-movsb" : "memcpy";
        large = fast ? "rep-movsb" : largest;
#endif
        CHECK(strcmp(bshm_copy_kernel(STRING_FROM_BYTES), small) == 0);
        CHECK(strcmp(bshm_copy_kernel(STREAM_FROM_BYTES - 1), small) == 0);
        CHECK(strcmp(bshm_copy_kernel(STREAM_FROM_BYTES), large) == 0);
        CHECK(strcmp(bshm_copy_kernel(STRING_MAX_BYTES - 1), large) == 0);
#ifdef BSHM_X86_KERNELS
    }
#endif
    CHECK(strcmp(bshm_copy_kernel(STRING_MAX_BYTES), largest) == 0);
    CHECK(strcmp(bshm_copy_kernel(SIZE_MAX), largest) == 0);
}

/* ---------------------------------------------------------------- rows */

static void check_rows(size_t row_bytes, size_t rows, size_t to_stride, ptrdiff_t from_stride)
{
    size_t apart = (size_t)(from_stride < 0 ? -from_stride : from_stride);
    const uint8_t *from = source.begin + (from_stride < 0 ? apart * (rows - 1) : 0);
    REQUIRE(to_stride * rows <= LARGEST && apart * rows + row_bytes <= LARGEST);
    memset(destination.begin, GUARD, to_stride * rows);
    bshm_copy_rows(destination.begin, to_stride, from, from_stride, row_bytes, rows);
    for (size_t row = 0; row < rows; row++) {
        const uint8_t *to = destination.begin + row * to_stride;
        CHECK(memcmp(to, from + (ptrdiff_t)row * from_stride, row_bytes) == 0);
        CHECK(is_guard(to + row_bytes, to + to_stride));
    }
}

static void rows_may_be_packed_padded_upside_down_or_all_the_same(void)
{
    static const size_t widths[] = {1, 3, 63, 64, 65, 300, 1921};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        ptrdiff_t width = (ptrdiff_t)widths[i];
        check_rows(widths[i], 17, widths[i], width);
        check_rows(widths[i], 17, widths[i], width + 5);
        check_rows(widths[i], 17, widths[i] + 3, width);
        check_rows(widths[i], 17, widths[i], -width);
        check_rows(widths[i], 17, widths[i] + 64, -(width + 64));
        check_rows(widths[i], 17, widths[i], 0);
        check_rows(widths[i], 1, widths[i], 12345);
        check_rows(widths[i], 1, widths[i], -12345);
    }
}

static void large_frames_may_have_padded_and_upside_down_rows_too(void)
{
    check_rows(1919, 1100, 1919, 1919); /* two MiB and more in all: the streaming kernel copies row by row */
    check_rows(1919, 1100, 1919, 1983);
    check_rows(1919, 1100, 2000, 1919);
    check_rows(1919, 1100, 1919, -1919);
    check_rows(1919, 1100, 2047, -2051);
    check_rows(3, 700000, 5, 4);
}

static void empty_blocks_copy_nothing(void)
{
    memset(destination.begin, GUARD, 64);
    bshm_copy_rows(destination.begin, 0, source.begin, 0, 0, 0);
    bshm_copy_rows(destination.begin, 8, source.begin, 8, 8, 0);
    bshm_copy_rows(destination.begin, 8, source.begin, 8, 0, 8);
    CHECK(is_guard(destination.begin, destination.begin + 64));
}

int main(void)
{
    source = new_fenced(LARGEST);
    destination = new_fenced(LARGEST);
    fill_source();
    find_kernels();
    RUN(every_kernel_copies_every_small_size_at_every_alignment);
    RUN(no_kernel_reads_or_writes_beyond_what_it_was_given);
    RUN(large_blocks_arrive_whole_from_and_to_any_alignment);
    RUN(small_blocks_stay_in_the_cache_and_large_ones_bypass_it);
    RUN(rows_may_be_packed_padded_upside_down_or_all_the_same);
    RUN(large_frames_may_have_padded_and_upside_down_rows_too);
    RUN(empty_blocks_copy_nothing);
    free_fenced(&source);
    free_fenced(&destination);
    return check_summary();
}
