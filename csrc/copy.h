/* copy.h - moving pixels. */
#ifndef BSHM_COPY_H
#define BSHM_COPY_H

#include <stddef.h>
#include <stdint.h>

/* Rows of `row_bytes`, that begin `source_stride` (may be negative) and `destination_stride` bytes apart, by the fastest
 * kernel for this processor and size. Large blocks go past the cache; a sequentially consistent fence must follow
 * before another processor is told (W7 is one). */
void bshm_copy_rows(void *destination, size_t destination_stride, const void *source, ptrdiff_t source_stride,
                    size_t row_bytes, size_t rows);

/* Which kernel bshm_copy_rows uses for a block of this size: "memcpy", "avx2-stream", "neon-stream". */
const char *bshm_copy_kernel(size_t bytes);

#endif
