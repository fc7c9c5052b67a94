/* picture.h - frames that show whether they are whole: every word is a function of the writer's salt, the frame's
 * number and the word's position, and the first word is the salt. */
#ifndef PICTURE_H
#define PICTURE_H

#include "billiards_shm.h"

#include <stdbool.h>
#include <string.h>

#define PICTURE_SIDE       64u
#define PICTURE_BYTES      (PICTURE_SIDE * PICTURE_SIDE)
#define PICTURE_MOST_BYTES (2 * PICTURE_BYTES) /* of a frame that needs a larger segment */
#define HISTORY            2u                  /* where there is one */

static inline uint64_t picture_word(uint64_t salt, uint64_t number, uint64_t place)
{
    uint64_t x = salt * UINT64_C(0x9e3779b97f4a7c15) ^ number * UINT64_C(0xbf58476d1ce4e5b9) ^ place;
    x = (x ^ x >> 30) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline void picture_paint(void *pixels, size_t bytes, uint64_t salt, uint64_t number)
{
    uint8_t *to = pixels;
    for (size_t place = 0; place < bytes / 8; place++) {
        uint64_t word = place == 0 ? salt : picture_word(salt, number, place);
        memcpy(to + 8 * place, &word, 8);
    }
}

static inline bool picture_is_whole(const void *pixels, size_t bytes, uint64_t number)
{
    const uint8_t *from = pixels;
    uint64_t salt;
    memcpy(&salt, from, 8);
    for (size_t place = 1; place < bytes / 8; place++) {
        uint64_t word;
        memcpy(&word, from + 8 * place, 8);
        if (word != picture_word(salt, number, place))
            return false;
    }
    return bytes >= 16;
}

static inline bshm_frame_info picture_info(uint32_t height)
{
    return (bshm_frame_info){
        .width = PICTURE_SIDE, .height = height, .channels = 1, .item_size = 1, .ndim = 2, .kind = 'u'};
}

/* The next frame of `writer`. */
static inline int picture_put(bshm_writer *writer, uint32_t height, uint64_t salt, uint64_t *sequence,
                              bshm_error *error)
{
    uint8_t pixels[PICTURE_MOST_BYTES];
    bshm_frame_info info = picture_info(height);
    bshm_writer_counters counters;
    bshm_writer_get_counters(writer, &counters);
    picture_paint(pixels, (size_t)PICTURE_SIDE * height, salt, counters.sequence + 1);
    return bshm_writer_write(writer, &info, pixels, PICTURE_SIDE, sequence, error);
}

#endif
