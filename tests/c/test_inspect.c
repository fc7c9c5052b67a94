/* bshm_inspect. Its source is included with a macro around reading, so that something can happen in between. */
#include "layout.h"
#include "protocol.h"

static unsigned reads_before; /* it happens before this one; 0: never */
static void something_happens(void);
#define bshm_os_read(...)                                                                                              \
    (reads_before && --reads_before == 0 ? something_happens() : (void)0, bshm_os_read(__VA_ARGS__))
#include "inspect.c"

#include "fixture.h"

static window happening_in;
static bshm_writer *happening_to; /* it publishes; NULL: a slot is begun and not finished */

static void something_happens(void)
{
    if (!happening_to)
        bshm_step_begin_write(happening_in.header, 0, 4);
    else
        for (int frame = 0; frame < 4; frame++)
            (void)put(happening_to);
}

static bshm_inspection found;

static const bshm_inspection *look(void)
{
    memset(&found, 0xFF, sizeof found);
    if (!CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &found, &fixture_error), BSHM_OK))
        printf("    %s\n", fixture_error.message);
    return &found;
}

static void inspection_finds_what_the_writer_made(void)
{
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &found, &fixture_error), BSHM_E_NOT_FOUND);
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &found, NULL), BSHM_E_NOT_FOUND);
    CHECK_EQUAL(bshm_inspect("no/", NULL, &found, &fixture_error), BSHM_E_NAME);
    bshm_writer *writer = new_writer(5);
    look();
    CHECK_EQUAL(found.status, BSHM_STATUS_LIVE);
    CHECK_EQUAL(found.identity.slot_count, 5);
    CHECK_EQUAL(found.identity.slot_capacity, FRAME_BYTES);
    CHECK_EQUAL(found.identity.writer_pid, bshm_os_process_id());
    CHECK_EQUAL(found.mode, 0600);
    CHECK_EQUAL(found.owner_uid, bshm_os_user_id());
    CHECK_EQUAL(found.source.statistics.backed_slots.shared, 3);
    CHECK(found.allocated_bytes >= 5 * (uint64_t)BSHM_REGION_BYTES); /* header, control, three slots */
    CHECK_EQUAL(found.latest_sequence, 0);
    CHECK_EQUAL(found.has_frame, 0);
    CHECK_EQUAL(found.reader_count, 0);
    for (int i = 0; i < 4; i++)
        (void)put(writer);
    look();
    CHECK_EQUAL(found.latest_sequence, 4);
    CHECK_EQUAL(found.has_frame, 1);
    CHECK(found.frame.width == WIDTH && found.frame.height == HEIGHT);
    CHECK_EQUAL(found.source.statistics.published.shared, 4);
    CHECK_EQUAL((int64_t)found.source.statistics.last_capture_ns.shared, found.frame.publish_ns);
    uint64_t written = 0;
    for (uint32_t i = 0; i < BSHM_LATENCY_BUCKETS; i++)
        written += found.source.statistics.write_ns_log2[i].shared;
    CHECK_EQUAL(written, 4);
    bshm_writer_free(writer);
    CHECK_EQUAL(bshm_inspect(fixture_name, NULL, &found, &fixture_error), BSHM_E_NOT_FOUND);
}

static void readers_are_counted_with_what_they_do_and_only_while_they_live(void)
{
    bshm_writer *writer = new_writer(8);
    bshm_reader *first = new_reader(2);
    bshm_reader *second = new_reader(1);
    (void)put(writer);
    REQUIRE(bshm_reader_attach(second, &fixture_error) == BSHM_OK);
    bshm_frame one = newest(first);
    (void)put(writer);
    (void)put(writer);
    bshm_frame two = newest(first);
    look();
    CHECK_EQUAL(found.reader_count, 2);
    for (uint32_t i = 0; i < found.reader_count; i++) {
        CHECK_EQUAL(found.readers[i].kind, BSHM_READER_LEASE);
        CHECK_EQUAL(found.readers[i].pid, bshm_os_process_id());
        CHECK(strlen(found.readers[i].process_name) > 0);
        CHECK(found.readers[i].attached_wall_ns > 0);
    }
    const bshm_reader_view *leasing = &found.readers[found.readers[0].frames ? 0 : 1];
    CHECK_EQUAL(leasing->frames, 2);
    CHECK_EQUAL(leasing->skipped, 1);
    CHECK_EQUAL(leasing->copies, 0);
    CHECK_EQUAL(leasing->last_sequence, 3);
    CHECK_EQUAL(leasing->leases, 2);
    bshm_frame_release(&one);
    CHECK_EQUAL(look()->reader_count, 2);
    bshm_reader_free(first); /* the frame keeps the mapping, and with it the lock: this is still a reader */
    CHECK_EQUAL(look()->reader_count, 2);
    bshm_frame_release(&two);
    CHECK_EQUAL(look()->reader_count, 1);
    CHECK_EQUAL(found.readers[0].frames, 0);
    bshm_reader_free(second);
    CHECK_EQUAL(look()->reader_count, 0);
    bshm_writer_free(writer);
}

static void looking_leaves_no_trace(void)
{
    bshm_writer *writer = new_writer(3);
    window shared = open_window();
    uint8_t *before = malloc(2 * BSHM_REGION_BYTES);
    REQUIRE(before != NULL);
    (void)put(writer);
    memcpy(before, shared.header, 2 * BSHM_REGION_BYTES);
    look();
    look();
    CHECK(memcmp(before, shared.header, 2 * BSHM_REGION_BYTES) == 0);
    free(before);
    close_window(&shared);
    bshm_writer_free(writer);
}

static void a_frame_that_is_being_written_or_makes_no_sense_is_left_out(void)
{
    bshm_writer *writer = new_writer(3);
    window shared = open_window();
    (void)put(writer);
    CHECK_EQUAL(look()->has_frame, 1);
    bshm_step_begin_write(shared.header, 0, 1);
    CHECK_EQUAL(look()->has_frame, 0);
    CHECK_EQUAL(found.latest_sequence, 1);
    bshm_step_end_write(shared.header, 0, 1);
    bshm_shared64 *payload = &shared.header->descriptors[0].info[5];
    uint64_t bytes = bshm_load_relaxed(payload);
    bshm_store_relaxed(payload, UINT64_MAX);
    CHECK_EQUAL(look()->has_frame, 0);
    bshm_store_relaxed(payload, bytes);
    bshm_store_relaxed(&shared.header->descriptors[0].info[0], 77);
    CHECK_EQUAL(look()->has_frame, 1);
    CHECK_EQUAL(found.frame.sequence, 1); /* the descriptor's claim is not believed */
    bshm_store_relaxed(&shared.header->publication.latest, BSHM_LATEST(9, 63));
    CHECK_EQUAL(look()->has_frame, 0);
    CHECK_EQUAL(found.latest_sequence, 9);
    bshm_frame_info info;
    uint64_t seq;
    REQUIRE(bshm_step_load_descriptor(shared.header, 0, 1, &seq, &info));
    bshm_step_store_descriptor(shared.header, 3, &info);
    bshm_step_end_write(shared.header, 3, 9);
    bshm_store_relaxed(&shared.header->publication.latest,
                       BSHM_LATEST(9, 3)); /* a good frame, in a slot that does not exist */
    CHECK_EQUAL(look()->has_frame, 0);
    bshm_store_relaxed(&shared.header->publication.latest, UINT64_MAX);
    CHECK_EQUAL(look()->has_frame, 0);
    close_window(&shared);
    bshm_writer_free(writer);
}

static void a_frame_that_is_written_over_while_it_is_looked_at_is_left_out(void)
{
    bshm_writer *writer = new_writer(3);
    (void)put(writer);
    happening_in = open_window();
    reads_before = 2; /* the regions, and seq again; the identity is read elsewhere */
    CHECK_EQUAL(look()->has_frame, 0);
    CHECK_EQUAL(reads_before, 0);
    CHECK_EQUAL(found.latest_sequence, 1);
    close_window(&happening_in);
    bshm_writer_free(writer);
}

static void a_writer_that_laps_the_inspector_hides_no_frame(void)
{
    happening_to = new_writer(3);
    (void)put(happening_to);
    reads_before = 2;
    CHECK_EQUAL(look()->has_frame, 1);
    CHECK_EQUAL(reads_before, 0);
    CHECK_EQUAL(found.latest_sequence, 5);
    bshm_writer_free(happening_to);
    happening_to = NULL;
}

static void rubbish_in_the_statistics_and_the_table_does_no_harm(void)
{
    bshm_writer *writer = new_writer(3);
    bshm_reader *reader = new_reader(1);
    window shared = open_window();
    (void)put(writer);
    REQUIRE(bshm_reader_attach(reader, &fixture_error) == BSHM_OK);
    memset(&shared.header->statistics, 0xFF, sizeof shared.header->statistics);
    memset(shared.control->readers, 0xFF, sizeof shared.control->readers);
    look();
    CHECK_EQUAL(found.reader_count, 1);
    CHECK_EQUAL(found.readers[0].leases, 0); /* claiming to own tokens does not pin anything */
    bshm_store_relaxed(&shared.control->pins[1].word, ~BSHM_TOKEN_MASK(1));
    CHECK_EQUAL(look()->readers[0].leases, 0); /* nor do bits that are not tokens */
    bshm_store_relaxed(&shared.control->pins[1].word, BSHM_TOKEN_MASK(1));
    CHECK_EQUAL(look()->readers[0].leases, 1);
    bshm_store_relaxed(&shared.control->pins[1].word, 0);
    CHECK_EQUAL(strlen(found.readers[0].process_name), 32);
    CHECK_EQUAL(strlen(found.source.reason), 128);
    CHECK_EQUAL(strlen(found.source.backend), 32);
    bshm_source_view view;
    CHECK_EQUAL(bshm_reader_source(reader, &view), BSHM_ATTACHED);
    CHECK_EQUAL(strlen(view.reason), 128);
    close_window(&shared);
    bshm_reader_free(reader);
    bshm_writer_free(writer);
}

static void the_dead_are_told_from_the_living_and_from_the_closed(void)
{
    leave_dead_segment(3, 2);
    CHECK_EQUAL(look()->status, BSHM_STATUS_DEAD);
    CHECK_EQUAL(found.latest_sequence, 2);
    window shared = open_window();
    bshm_step_set_state(shared.header, BSHM_STATE_CLOSED); /* killed between CLOSED and unlink */
    CHECK_EQUAL(look()->status, BSHM_STATUS_CLOSED);
    close_window(&shared);
    bshm_writer *writer = new_writer(3);
    CHECK_EQUAL(look()->status, BSHM_STATUS_LIVE);
    bshm_writer_free(writer);
}

int main(int argc, char **argv)
{
    fixture_begin(argc, argv);
    RUN(inspection_finds_what_the_writer_made);
    RUN(readers_are_counted_with_what_they_do_and_only_while_they_live);
    RUN(looking_leaves_no_trace);
    RUN(a_frame_that_is_being_written_or_makes_no_sense_is_left_out);
    RUN(a_frame_that_is_written_over_while_it_is_looked_at_is_left_out);
    RUN(a_writer_that_laps_the_inspector_hides_no_frame);
    RUN(rubbish_in_the_statistics_and_the_table_does_no_harm);
    RUN(the_dead_are_told_from_the_living_and_from_the_closed);
    return check_summary();
}
