/* fixture.h - for tests of the public functions: a unique name, small frames, and a window that maps the shared
 * words of a segment, to read and to change them. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "billiards_shm.h"
#include "check.h"
#include "platform.h"
#include "protocol.h"

#ifdef _WIN32
#include <process.h>
#include <windows.h>
#else
#include <sys/wait.h>
#include <unistd.h>
#endif

#define WIDTH       64u
#define HEIGHT      48u
#define FRAME_BYTES ((uint64_t)WIDTH * HEIGHT)

static char fixture_name[128]; /* argv[1]: the caller removes what a crash leaves under it */
static bshm_error fixture_error;

#ifdef _WIN32
static char *fixture_program;
static void fixture_be_killed(uint32_t slots, unsigned frames);
#endif

static inline void fixture_begin(int argc, char **argv)
{
    REQUIRE(argc >= 2 && strlen(argv[1]) <= 64);
    (void)snprintf(fixture_name, sizeof fixture_name, "%s", argv[1]);
#ifdef _WIN32
    fixture_program = argv[0];
    if (argc == 4) /* the child of leave_dead_segment */
        fixture_be_killed((uint32_t)strtoul(argv[2], NULL, 10), (unsigned)strtoul(argv[3], NULL, 10));
#endif
    REQUIRE(argc == 2);
}

static inline const char *fixture_path(void)
{
    static char path[BSHM_OS_PATH_BYTES];
    REQUIRE(bshm_object_path(fixture_name, path, sizeof path, &fixture_error) == BSHM_OK);
    return path;
}

/* ---------------------------------------------------------------- writers, readers, frames */

static inline bshm_frame_info picture(uint32_t height)
{
    return (bshm_frame_info){
        .width = WIDTH, .height = height, .channels = 1, .item_size = 1, .ndim = 2, .kind = 'u', .capture_ns = 1};
}

static inline bshm_writer *new_writer_with_history(uint32_t slots, uint32_t history)
{
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = slots, .history = history, .mode = 0600};
    if (!CHECK_EQUAL(bshm_writer_create(&writer, fixture_name, &options, &fixture_error), BSHM_OK)) {
        printf("    %s\n", fixture_error.message);
        exit(1);
    }
    return writer;
}

static inline bshm_writer *new_writer(uint32_t slots)
{
    return new_writer_with_history(slots, 0);
}

static inline bshm_reader *new_reader(uint32_t max_leases)
{
    bshm_reader *reader = NULL;
    bshm_reader_options options = {.max_leases = max_leases};
    REQUIRE(bshm_reader_create(&reader, fixture_name, &options, &fixture_error) == BSHM_OK);
    return reader;
}

/* All pixels of frame n are the low byte of n. Returns the frame's number. */
static inline uint64_t put(bshm_writer *writer)
{
    uint8_t pixels[FRAME_BYTES];
    bshm_writer_counters counters;
    bshm_frame_info info = picture(HEIGHT);
    uint64_t sequence = 0;
    bshm_writer_get_counters(writer, &counters);
    memset(pixels, (int)((counters.sequence + 1) & 0xFF), sizeof pixels);
    if (!CHECK_EQUAL(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &fixture_error), BSHM_OK))
        printf("    %s\n", fixture_error.message);
    return sequence;
}

static inline bool is_whole(const bshm_frame *frame)
{
    const uint8_t *pixels = frame->pixels;
    for (uint64_t i = 0; i < frame->info.payload_bytes; i++)
        if (pixels[i] != (uint8_t)frame->info.sequence)
            return false;
    return true;
}

/* The newest frame, seen or not. */
static inline bshm_frame newest(bshm_reader *reader)
{
    bshm_frame frame = {0};
    if (!CHECK_EQUAL(bshm_reader_acquire(reader, BSHM_ACQUIRE_SEEN, &frame, &fixture_error), BSHM_FOUND))
        printf("    %s\n", fixture_error.message);
    return frame;
}

/* Waits for the next unseen frame: a reader looks for a successor of its segment only every few milliseconds. */
static inline bshm_frame next_frame(bshm_reader *reader)
{
    bshm_frame frame = {0};
    int64_t deadline = bshm_now_ns() + INT64_C(5000000000);
    int rc = bshm_reader_acquire(reader, 0, &frame, &fixture_error);
    while (rc == BSHM_NOTHING && bshm_now_ns() < deadline) {
        bshm_reader_wait(reader, 10000000);
        rc = bshm_reader_acquire(reader, 0, &frame, &fixture_error);
    }
    CHECK_EQUAL(rc, BSHM_FOUND);
    return frame;
}

static inline bshm_writer_counters counters_of(bshm_writer *writer)
{
    bshm_writer_counters counters;
    bshm_writer_get_counters(writer, &counters);
    return counters;
}

/* Locks every lease token, until bshm_os_close: readers find none and copy without a pin. */
static inline bshm_os_file take_all_tokens(uint32_t slots)
{
    bshm_os_file file;
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ_WRITE, &file) == 0);
    for (uint32_t token = 0; token < slots - 2; token++)
        REQUIRE(bshm_os_lock(file, BSHM_TOKEN_BYTE + token, true) == 0);
    return file;
}

/* Leaves the segment of a writer that was killed after `frames` frames: it has the name, and its lock is free. */
#ifdef _WIN32
static inline void leave_dead_segment(uint32_t slots, unsigned frames)
{
    char slots_text[16], frames_text[16];
    (void)fflush(stdout);
    (void)snprintf(slots_text, sizeof slots_text, "%u", slots);
    (void)snprintf(frames_text, sizeof frames_text, "%u", frames);
    intptr_t status =
        _spawnl(_P_WAIT, fixture_program, fixture_program, fixture_name, slots_text, frames_text, (char *)NULL);
    REQUIRE(status == 0);
}

static void fixture_be_killed(uint32_t slots, unsigned frames)
{
    bshm_writer *writer = new_writer(slots);
    for (unsigned i = 0; i < frames; i++)
        (void)put(writer);
    (void)fflush(stdout);
    (void)TerminateProcess(GetCurrentProcess(), check_failures_so_far() != 0);
}
#else
static inline void leave_dead_segment(uint32_t slots, unsigned frames)
{
    int status;
    (void)fflush(stdout);
    unsigned before = check_failures_so_far();
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        bshm_writer *writer = new_writer(slots);
        for (unsigned i = 0; i < frames; i++)
            (void)put(writer);
        (void)fflush(stdout);
        _exit(check_failures_so_far() != before); /* as with SIGKILL: nothing is closed, no handler runs */
    }
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

/* ---------------------------------------------------------------- the window */

typedef struct window {
    bshm_header *header;
    bshm_control *control;
} window;

static inline window open_window(void)
{
    bshm_os_file file;
    void *address;
    REQUIRE(bshm_os_open(fixture_path(), BSHM_OS_READ_WRITE, &file) == 0);
    REQUIRE(bshm_os_map(file, 0, 2 * BSHM_REGION_BYTES, BSHM_OS_MAP_WRITE, &address) == 0);
    bshm_os_close(file);
    return (window){.header = address, .control = (bshm_control *)(void *)((uint8_t *)address + BSHM_REGION_BYTES)};
}

static inline void close_window(window *shared)
{
    bshm_os_unmap(shared->header, 2 * BSHM_REGION_BYTES);
}

static inline uint64_t pin_of(const window *shared, uint32_t slot)
{
    return bshm_load_relaxed(&shared->control->pins[slot].word);
}

static inline uint64_t seq_of(const window *shared, uint32_t slot)
{
    return bshm_load_relaxed(&shared->header->descriptors[slot].seq);
}

static inline uint32_t latest_slot(const window *shared)
{
    return BSHM_LATEST_SLOT(bshm_load_relaxed(&shared->header->publication.latest));
}

static inline uint64_t latest_sequence(const window *shared)
{
    return BSHM_LATEST_SEQUENCE(bshm_load_relaxed(&shared->header->publication.latest));
}

static inline uint32_t pinned_slots(const window *shared, uint32_t slots)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < slots; slot++)
        count += (pin_of(shared, slot) & BSHM_TOKEN_MASK(slots - 2)) != 0;
    return count;
}

/* What holds between any two calls, unless pins are forged. */
static inline void check_invariants(const window *shared, uint32_t slots)
{
    CHECK(pinned_slots(shared, slots) <= slots - 2);
    for (uint32_t token = 0; token < slots - 2; token++) {
        uint32_t places = 0;
        for (uint32_t slot = 0; slot < slots; slot++)
            places += (pin_of(shared, slot) >> token & 1) != 0;
        CHECK(places <= 1); /* a token pins at most one slot */
    }
    if (latest_sequence(shared) == 0)
        return;
    REQUIRE(latest_slot(shared) < slots);
    CHECK(!(pin_of(shared, latest_slot(shared)) & BSHM_PIN_WRITING));
    CHECK_EQUAL(seq_of(shared, latest_slot(shared)), 2 * latest_sequence(shared));
    for (uint32_t slot = 0; slot < slots; slot++)
        if (slot != latest_slot(shared))
            CHECK(seq_of(shared, slot) != 2 * latest_sequence(shared)); /* no number is used twice */
}

#endif
