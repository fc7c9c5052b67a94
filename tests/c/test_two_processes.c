/* Two programs and one name: waking, locks and death across processes, through each system's platform layer. */
#include "child.h"

#define PERIOD_NS INT64_C(5000000) /* between a child's frames */
#define PATIENCE  INT64_C(30000000000)
#define SLICE_NS  INT64_C(100000000) /* how often a sleeper looks when it is not woken */

static const char *program;

/* ---------------------------------------------------------------- what the other process does until it is killed */

static void write_until_killed(void)
{
    bshm_writer *writer = new_writer(3);
    for (;;) {
        (void)put(writer);
        bshm_os_sleep(PERIOD_NS);
    }
}

/* Takes the only token, for a frame that it never releases. */
static void hold_until_killed(void)
{
    bshm_reader *reader = new_reader(1);
    bshm_frame frame = next_frame(reader);
    for (;;)
        bshm_os_sleep(frame.info.sequence ? SLICE_NS : 0);
}

static void play(const char *role)
{
    if (strcmp(role, "write") == 0)
        write_until_killed();
    if (strcmp(role, "hold") == 0)
        hold_until_killed();
}

/* ---------------------------------------------------------------- here */

static bool in_time(int64_t since)
{
    return CHECK(bshm_now_ns() - since < PATIENCE);
}

static void frames_of_another_process_arrive_and_wake_a_waiting_reader(void)
{
    child_process child = start_child(program, fixture_name, "write", play);
    bshm_reader *reader = new_reader(1);
    int64_t began = bshm_now_ns();
    unsigned frames = 0;
    unsigned waits = 0;
    while (frames < 200 && in_time(began)) {
        bshm_frame frame;
        int rc = bshm_reader_acquire(reader, 0, &frame, &fixture_error);
        if (!CHECK(rc >= 0))
            break;
        if (rc == BSHM_NOTHING) {
            waits++;
            bshm_reader_wait(reader, SLICE_NS);
            continue;
        }
        if (frames++ == 0)
            began = bshm_now_ns();
        CHECK(is_whole(&frame));
        bshm_frame_release(&frame);
    }
    int64_t took = bshm_now_ns() - began;
    printf("    200 frames, one every %lld ms or more, in %lld ms and %u waits\n", (long long)(PERIOD_NS / 1000000),
           (long long)(took / 1000000), waits);
    CHECK(took < 200 * SLICE_NS / 2); /* with slices alone this would take 20 s */
    CHECK(waits < 200 * 3);           /* by polling every millisecond it would take five each */
    bshm_reader_free(reader);
    kill_child(child);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_REMOVED);
}

static void a_killed_writers_name_is_free_and_its_count_goes_on(void)
{
    child_process child = start_child(program, fixture_name, "write", play);
    bshm_reader *reader = new_reader(1);
    bshm_writer *refused = NULL;
    bshm_writer_options options = {.slot_capacity = FRAME_BYTES, .slots = 3, .mode = 0600};
    bshm_frame frame = next_frame(reader);
    bshm_frame_release(&frame);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_LIVE);
    CHECK_EQUAL(bshm_writer_create(&refused, fixture_name, &options, &fixture_error), BSHM_E_EXISTS);
    CHECK_EQUAL(bshm_remove_stale(fixture_name, NULL, &fixture_error), BSHM_NOTHING);
    kill_child(child);
    int64_t killed = bshm_now_ns();
    while (bshm_reader_status(reader) == BSHM_STATUS_LIVE && in_time(killed))
        bshm_os_sleep(PERIOD_NS);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_DEAD);
    printf("    known to be dead after %lld ms\n", (long long)((bshm_now_ns() - killed) / 1000000));
    frame = newest(reader); /* a dead writer's newest frame is there */
    uint64_t last = frame.info.sequence;
    CHECK(is_whole(&frame));
    bshm_writer *writer = new_writer(3);
    CHECK(put(writer) > last);
    CHECK(is_whole(&frame)); /* in its former segment */
    bshm_frame_release(&frame);
    frame = next_frame(reader);
    CHECK(frame.info.sequence > last);
    CHECK_EQUAL(bshm_reader_status(reader), BSHM_STATUS_LIVE);
    bshm_frame_release(&frame);
    bshm_writer_free(writer);
    bshm_reader_free(reader);
}

static void a_killed_readers_token_is_there_for_the_next(void)
{
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    child_process child = start_child(program, fixture_name, "hold", play);
    window shared = open_window();
    int64_t began = bshm_now_ns();
    while (pinned_slots(&shared, 3) == 0 && in_time(began))
        bshm_os_sleep(PERIOD_NS);
    bshm_reader *reader = new_reader(1);
    for (unsigned i = 0; i < 10; i++) {
        (void)put(writer); /* its frame costs the writer nothing */
        bshm_frame frame = newest(reader);
        CHECK(frame.to_copy && !frame.pinned);
        bshm_frame_release(&frame);
    }
    kill_child(child);
    bshm_frame frame;
    do { /* a failed search for a token is repeated after 100 ms */
        bshm_os_sleep(SLICE_NS);
        (void)put(writer);
        frame = newest(reader);
        bool pinned = frame.pinned;
        bshm_frame_release(&frame);
        if (pinned)
            break;
    } while (in_time(began));
    CHECK_EQUAL(counters_of(writer).statistics.leases_broken.shared, 0);
    check_invariants(&shared, 3);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    program = argv[0];
    if (argc == 3) {
        fixture_begin(2, argv);
        play(argv[2]);
    }
    fixture_begin(argc, argv);
    RUN(frames_of_another_process_arrive_and_wake_a_waiting_reader);
    RUN(a_killed_writers_name_is_free_and_its_count_goes_on);
    RUN(a_killed_readers_token_is_there_for_the_next);
    return check_summary();
}
