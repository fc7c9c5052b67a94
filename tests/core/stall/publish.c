/* publish.c - a writer; test_nobody_stalls.py counts the instructions of its publishing.
 *
 *     publish NAME SLOTS ROUNDS FRAMES [forge]
 *
 * Prints "ready" after the first frame, and "next" after one more frame for every line "next", so that readers can
 * attach and hold frames. At any other line it publishes ROUNDS times FRAMES frames; only `publish_frames` is
 * counted. With `forge` every bit of every pin word is set before each round, as a faulty reader might do. At the end
 * it prints how many frames were published, how many were dropped, and how often a pin was overridden.
 */
#include "billiards_shm.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WIDTH  64u
#define HEIGHT 64u

static uint8_t pixels[WIDTH * HEIGHT];
static bshm_error error;

static bshm_writer *create(const char *name, uint32_t slots)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = sizeof pixels, .slots = slots, .mode = 0600};
    if (bshm_writer_create(&writer, name, &options, &error) < 0) {
        (void)fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    return writer;
}

/* Not inlined: the test finds it by its name. */
__attribute__((noinline)) void publish_frames(bshm_writer *writer, long frames);
void publish_frames(bshm_writer *writer, long frames)
{
    for (long i = 0; i < frames; i++) {
        bshm_frame_info info = {
            .width = WIDTH, .height = HEIGHT, .channels = 1, .item_size = 1, .ndim = 2, .kind = 'u'};
        uint64_t sequence;
        if (bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &error) < 0)
            exit(1);
    }
}

static volatile uint64_t *map_pins(const char *name)
{
    char path[512];
    if (bshm_object_path(name, path, sizeof path, &error) < 0)
        exit(1);
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *control = mmap(NULL, BSHM_REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, BSHM_REGION_BYTES);
    if (file < 0 || control == MAP_FAILED)
        exit(1);
    return control;
}

static void forge(volatile uint64_t *pins, uint32_t slots)
{
    for (uint32_t slot = 0; slot < slots; slot++)
        pins[slot * sizeof(bshm_pin) / sizeof *pins] = UINT64_MAX;
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    uint32_t slots = (uint32_t)atoi(argv[2]);
    long rounds = atol(argv[3]);
    long frames = atol(argv[4]);
    int forging = argc > 5 && strcmp(argv[5], "forge") == 0;
    bshm_writer *writer = create(argv[1], slots);
    volatile uint64_t *pins = map_pins(argv[1]);
    publish_frames(writer, 1);
    const char *said = "ready";
    char line[16];
    do {
        (void)printf("%s\n", said);
        (void)fflush(stdout);
        said = "next";
        if (!fgets(line, sizeof line, stdin))
            return 1;
        if (strcmp(line, "next\n") == 0)
            publish_frames(writer, 1);
    } while (strcmp(line, "next\n") == 0);
    for (long round = 0; round < rounds; round++) {
        if (forging)
            forge(pins, slots);
        publish_frames(writer, frames);
    }
    bshm_writer_counters counters;
    bshm_writer_get_counters(writer, &counters);
    (void)printf("%llu %llu %llu\n", (unsigned long long)counters.statistics.published.shared,
                 (unsigned long long)counters.statistics.dropped.shared,
                 (unsigned long long)counters.statistics.leases_broken.shared);
    bshm_writer_free(writer);
    return 0;
}
