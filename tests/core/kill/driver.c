/* driver.c - the process that is killed. It prepares, lets its tracer look (SIGSTOP), announces the phase
 * (SIGUSR2), runs it, and reports the end (SIGUSR1).
 *
 *     driver PHASE NAME [TEMPORARY]
 */
#include "picture.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

#define MODE 0644u /* so that another user can read it as an observer */

static const char *name;
static const char *temporary;
static bshm_error error;
static bshm_writer *writer;
static bshm_reader *reader;
static bshm_frame frames[4];
static uint8_t copy[PICTURE_MOST_BYTES];

static void need(int holds, const char *what)
{
    if (holds)
        return;
    (void)fprintf(stderr, "driver: %s: %s\n", what, error.message);
    _exit(3);
}

static void let_look(void)
{
    (void)raise(SIGSTOP);
}

static void new_writer(uint32_t slots, uint32_t history)
{
    bshm_writer_options options = {.slot_capacity = PICTURE_BYTES, .slots = slots, .history = history, .mode = MODE};
    need(bshm_writer_create(&writer, name, &options, &error) == BSHM_OK, "create");
}

static void put(uint32_t height)
{
    uint64_t sequence;
    need(picture_put(writer, height, (uint64_t)getpid(), &sequence, &error) == BSHM_OK, "write");
}

static void acquire(uint32_t flags, bshm_frame *frame)
{
    need(bshm_reader_acquire(reader, flags, frame, &error) == BSHM_FOUND, "acquire");
}

static void new_reader(void)
{
    bshm_reader_options options = {.max_leases = 2};
    need(bshm_reader_create(&reader, name, &options, &error) == BSHM_OK, "reader");
}

/* ---------------------------------------------------------------- getting ready */

static void nothing(void)
{
}

static void a_writer_that_keeps(uint32_t history)
{
    new_writer(4, history);
    for (int i = 0; i < 5; i++)
        put(PICTURE_SIDE);
    let_look();
}

static void a_writer(void)
{
    a_writer_that_keeps(0);
}

static void a_writer_with_history(void)
{
    a_writer_that_keeps(HISTORY);
}

/* The tracer takes a view each time, until every slot with memory is held. */
static void a_writer_short_of_slots(void)
{
    new_writer(6, 0);
    for (int i = 0; i < 3; i++) {
        put(PICTURE_SIDE);
        let_look();
    }
}

static void a_reader(void)
{
    new_reader();
    acquire(0, &frames[0]);
    let_look(); /* the writer publishes another frame */
}

/* ---------------------------------------------------------------- phases */

static void publish(void)
{
    for (int i = 0; i < 3; i++)
        put(PICTURE_SIDE);
}

static void loan_and(int publish_it)
{
    bshm_frame_info info = picture_info(PICTURE_SIDE);
    bshm_writer_counters counters;
    bshm_loan loan;
    uint64_t sequence;
    bshm_writer_get_counters(writer, &counters);
    need(bshm_writer_loan(writer, &info, &loan, &error) == BSHM_OK, "loan");
    picture_paint(loan.pixels, PICTURE_BYTES, (uint64_t)getpid(), counters.sequence + 1);
    if (publish_it)
        need(bshm_writer_publish(writer, &loan, &sequence, &error) == BSHM_OK, "publish");
    else
        bshm_writer_cancel(writer, &loan);
    bshm_loan_release(&loan);
}

static void loan(void)
{
    loan_and(1);
    loan_and(0);
    loan_and(1);
}

static void report(void)
{
    bshm_source_report said;
    bshm_source_report_init(&said);
    said.statistics.captured.shared = 1;
    said.statistics.reconnects.shared = 2;
    said.statistics.stalls.shared = 3;
    said.statistics.loops.shared = 4;
    said.statistics.fps_millihertz.shared = 5;
    said.statistics.source_state.shared = BSHM_SOURCE_STREAMING;
    said.reason = "a reason of some length";
    said.backend = "a backend";
    for (int i = 0; i < 2; i++)
        need(bshm_writer_report(writer, &said, &error) == BSHM_OK, "report");
}

static void replace(void)
{
    put(2 * PICTURE_SIDE);
    put(PICTURE_SIDE);
}

static void close_writer(void)
{
    bshm_writer_free(writer);
}

static void create(void)
{
    new_writer(4, 0);
}

static void acquire_and_release(void)
{
    acquire(0, &frames[1]);
    acquire(BSHM_ACQUIRE_SEEN, &frames[2]); /* shares the pin */
    for (int i = 0; i < 3; i++)
        bshm_frame_release(&frames[i]);
    acquire(BSHM_ACQUIRE_SEEN, &frames[1]);
    bshm_frame_release(&frames[1]);
}

static void next(void)
{
    bshm_frame *frame = frames;
    need(bshm_reader_acquire_next(reader, 0, ++frame, &error) == BSHM_FOUND, "next");
    uint64_t number = frame->info.sequence;
    int64_t captured_ns = frame->info.capture_ns;
    need(bshm_reader_acquire_number(reader, number - 1, 0, ++frame, &error) == BSHM_FOUND, "number");
    need(bshm_reader_acquire_nearest(reader, captured_ns, 0, ++frame, &error) == BSHM_FOUND, "nearest");
    while (frame >= frames)
        bshm_frame_release(frame--);
    need(bshm_reader_acquire_number(reader, number - 1, BSHM_ACQUIRE_COPY, frames, &error) == BSHM_FOUND, "number");
    need(bshm_frame_copy(frames, copy, sizeof copy) == BSHM_OK, "copy");
    bshm_frame_release(frames);
}

static void copy_out(void)
{
    for (int i = 0; i < 2; i++) {
        acquire(BSHM_ACQUIRE_SEEN | BSHM_ACQUIRE_COPY, &frames[1]);
        need(bshm_frame_copy(&frames[1], copy, sizeof copy) == BSHM_OK, "copy");
        bshm_frame_release(&frames[1]);
    }
}

static void attach(void)
{
    bshm_source_view source;
    new_reader();
    need(bshm_reader_attach(reader, &error) == BSHM_OK, "attach");
    acquire(0, &frames[0]);
    need(bshm_reader_status(reader) == BSHM_STATUS_LIVE, "status");
    need(bshm_reader_source(reader, &source) == BSHM_ATTACHED, "source");
    bshm_reader_wait(reader, 0);
}

static void detach(void)
{
    acquire(0, &frames[1]);
    bshm_reader_close(reader); /* before its views are gone */
    bshm_frame_release(&frames[0]);
    bshm_frame_release(&frames[1]);
    bshm_reader_free(reader);
}

static void clean(void)
{
    need(bshm_remove_stale(name, NULL, &error) == BSHM_REMOVED, "remove");
    need(bshm_remove_stale_temporary(temporary, &error) == BSHM_REMOVED, "remove temporary");
}

static const struct phase {
    const char *name;
    void (*get_ready)(void);
    void (*act)(void);
} phases[] = {
    {"publish", a_writer, publish},
    {"publish-history", a_writer_with_history, publish},
    {"loan", a_writer, loan},
    {"loan-history", a_writer_with_history, loan},
    {"grow", a_writer_short_of_slots, publish},
    {"report", a_writer, report},
    {"replace", a_writer, replace},
    {"close", a_writer, close_writer},
    {"create", nothing, create},
    {"take-over", nothing, create},
    {"take-over-full", nothing, create},
    {"attach", nothing, attach},
    {"acquire-release", a_reader, acquire_and_release},
    {"next", a_reader, next},
    {"copy", a_reader, copy_out},
    {"detach", a_reader, detach},
    {"clean", nothing, clean},
};

int main(int count, char **arguments)
{
    if (count < 3)
        return 2;
    name = arguments[2];
    temporary = count > 3 ? arguments[3] : "";
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++) {
        if (strcmp(phases[i].name, arguments[1]) != 0)
            continue;
        need(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "trace");
        phases[i].get_ready();
        (void)raise(SIGUSR2);
        phases[i].act();
        (void)raise(SIGUSR1);
        return 0;
    }
    return 2;
}
