// reader.c - a program in C that reads frames in place.
//
//     include=$(python3 -c "import billiards_shm; print(billiards_shm.get_include())")
//     cc -O2 -I"$include" reader.c "$include"/*.c "$include"/platform/*.c -pthread -o reader
//     ./reader billiards_video 100

#include "billiards_shm.h"

#include <stdio.h>
#include <stdlib.h>

#define WAIT_NS INT64_C(100000000)

/* The mean of all bytes: a reason to look at every pixel. */
static double mean_of(const bshm_frame *frame)
{
    const bshm_frame_info *info = &frame->info;
    uint64_t row_bytes = (uint64_t)info->width * info->channels * info->item_size;
    uint64_t sum = 0;
    for (uint32_t y = 0; y < info->height; y++) {
        const uint8_t *row = (const uint8_t *)frame->pixels + y * info->row_stride;
        for (uint64_t i = 0; i < row_bytes; i++)
            sum += row[i];
    }
    return (double)sum / (double)(row_bytes * info->height);
}

/* Reads the frame in place. */
static void show(bshm_reader *reader, bshm_frame *frame)
{
    const bshm_frame_info *info = &frame->info;
    if (!frame->pixels) { /* other readers use every lease: skip what could only be copied */
        bshm_reader_give_back(reader, frame);
        return;
    }
    printf("%llu: %u x %u x %u, mean %.3f, %.1f ms old, %llu skipped\n", (unsigned long long)info->sequence,
           info->width, info->height, info->channels, mean_of(frame), (double)(bshm_now_ns() - info->capture_ns) / 1e6,
           (unsigned long long)frame->skipped);
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    bshm_error error;
    bshm_reader *reader = NULL;
    bshm_reader_options options = {.max_leases = 1};
    if (argc < 2) {
        (void)fprintf(stderr, "usage: %s NAME [FRAMES]\n", argv[0]);
        return 2;
    }
    unsigned long wanted = argc > 2 ? strtoul(argv[2], NULL, 10) : 0; /* 0: until the writer closes */
    int rc = bshm_reader_create(&reader, argv[1], &options, &error);
    for (unsigned long shown = 0; rc >= 0 && (wanted == 0 || shown < wanted);) {
        bshm_frame frame;
        rc = bshm_reader_acquire(reader, 0, &frame, &error); /* attaches automatically, also to a successor */
        if (rc == BSHM_FOUND) {
            show(reader, &frame);
            bshm_frame_release(&frame);
            shown++;
        } else if (rc == BSHM_NOTHING && bshm_reader_ended(reader)) {
            break;
        } else if (rc == BSHM_NOTHING) {
            bshm_reader_wait(reader, WAIT_NS);
        }
    }
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", error.message);
    bshm_reader_free(reader);
    return rc < 0;
}
