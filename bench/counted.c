/* counted.c - the calls that instructions.py counts, in C. After each call comes a callgrind dump with its
 * name.
 *
 *     counted NAME READERS HISTORY ROUNDS
 *
 * A writer that keeps HISTORY frames, READERS readers that are attached and do not wait, and one more that reads. Built with PLANT_COPY or
 * PLANT_SYSCALL it does one copy or system call too many, which the counts must show.
 */
#include "billiards_shm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define WIDTH       64u
#define HEIGHT      64u
#define MAX_READERS 64

static uint8_t pixels[WIDTH * HEIGHT];
static bshm_error error;

static void expect(int got, int expected)
{
    if (got == expected)
        return;
    (void)fprintf(stderr, "counted: %d instead of %d: %s\n", got, expected, error.message);
    exit(1);
}

static void plant(void *frame)
{
#ifdef PLANT_COPY
    static uint8_t elsewhere[sizeof pixels];
    memcpy(elsewhere, frame, sizeof elsewhere);
    __asm__ volatile("" : : "r"(elsewhere) : "memory");
#endif
#ifdef PLANT_SYSCALL
    (void)syscall(SYS_getppid);
#endif
    (void)frame;
}

static bshm_frame_info geometry(void)
{
    return (bshm_frame_info){
        .width = WIDTH, .height = HEIGHT, .channels = 1, .item_size = 1, .ndim = 2, .kind = 'u', .fourcc = 0};
}

#define COUNT(name, call)                                                                                              \
    do {                                                                                                               \
        CALLGRIND_ZERO_STATS;                                                                                          \
        CALLGRIND_TOGGLE_COLLECT;                                                                                      \
        call;                                                                                                          \
        CALLGRIND_TOGGLE_COLLECT;                                                                                      \
        CALLGRIND_DUMP_STATS_AT(name);                                                                                 \
    } while (0)

static void count_publish(bshm_writer *writer)
{
    bshm_frame_info info = geometry();
    bshm_loan loan;
    uint64_t sequence;
    expect(bshm_writer_loan(writer, &info, &loan, &error), BSHM_OK);
    plant(loan.pixels);
    expect(bshm_writer_publish(writer, &loan, &sequence, &error), 0);
    bshm_loan_release(&loan);
}

static void count_write(bshm_writer *writer)
{
    bshm_frame_info info = geometry();
    uint64_t sequence;
    expect(bshm_writer_write(writer, &info, pixels, WIDTH, &sequence, &error), BSHM_OK);
    plant(pixels);
}

static void count_read_new(bshm_reader *reader)
{
    bshm_frame frame;
    expect(bshm_reader_acquire(reader, 0, &frame, &error), BSHM_FOUND);
    plant((void *)(uintptr_t)frame.pixels);
    bshm_frame_release(&frame);
}

static void count_read_nothing(bshm_reader *reader)
{
    bshm_frame frame;
    expect(bshm_reader_acquire(reader, 0, &frame, &error), BSHM_NOTHING);
    plant(pixels);
}

/* Does here what a reader checks ten times a second, so the next call does not. */
static void settle(bshm_reader *reader)
{
    (void)usleep(110000);
    count_read_nothing(reader);
}

static bshm_reader *attach(const char *name)
{
    bshm_reader *reader = NULL;
    bshm_reader_options options = {.max_leases = 2};
    expect(bshm_reader_create(&reader, name, &options, &error), 0);
    expect(bshm_reader_attach(reader, &error), 0);
    return reader;
}

int main(int argc, char **argv)
{
    static bshm_reader *attached[MAX_READERS];
    if (argc < 5)
        return 2;
    int readers = atoi(argv[2]);
    uint32_t history = (uint32_t)atoi(argv[3]);
    long rounds = atol(argv[4]);
    if (readers > MAX_READERS)
        return 2;
    bshm_writer *writer = NULL;
    bshm_writer_options options = {.slot_capacity = sizeof pixels, .slots = 8, .history = history, .mode = 0600};
    expect(bshm_writer_create(&writer, argv[1], &options, &error), 0);
    bshm_reader *reader = attach(argv[1]);
    for (int i = 0; i < readers; i++)
        attached[i] = attach(argv[1]);
    for (long round = 0; round < rounds; round++) {
        COUNT("publish", count_publish(writer));
        COUNT("read_new", count_read_new(reader));
        COUNT("settle", settle(reader));
        COUNT("read_nothing", count_read_nothing(reader));
        COUNT("write", count_write(writer));
    }
    for (int i = 0; i < readers; i++)
        bshm_reader_free(attached[i]);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
    return 0;
}
