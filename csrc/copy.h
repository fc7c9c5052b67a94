/* copy.h - copying pixels. */
#ifndef BSHM_COPY_H
#define BSHM_COPY_H

#include <stddef.h>
#include <stdint.h>

/* Copies rows of `row_bytes` by the fastest kernel for this processor and size. Rows begin `source_stride` (may be
 * negative) and `destination_stride` bytes apart. Large blocks bypass the cache: a sequentially consistent fence must
 * follow before the pixels are published (W7 is one). */
void bshm_copy_rows(void *destination, size_t destination_stride, const void *source, ptrdiff_t source_stride,
                    size_t row_bytes, size_t rows);

/* The kernel that bshm_copy_rows uses for a block of this size: "memcpy", "avx2-stream", "neon-stream". */
const char *bshm_copy_kernel(size_t bytes);

#endif
