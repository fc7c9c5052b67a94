/* Validation: every field of an identity and of a descriptor, with the values that overflow. */
#include "check.h"
#include "layout.h"
#include "statistics.h"

#include <errno.h>
#include <limits.h>

#define CAPACITY UINT64_C(1000000)

static bshm_identity good(void)
{
    bshm_identity identity;
    bshm_error error;
    REQUIRE(bshm_identity_plan(&identity, CAPACITY, 8, 0, &error) == BSHM_OK);
    bshm_identity_seal(&identity);
    return identity;
}

/* ---------------------------------------------------------------- planning */

static void a_plan_is_what_was_asked_for_on_region_boundaries(void)
{
    static const uint64_t capacities[] = {1, 65535, 65536, 65537, 6220800, UINT64_C(1) << 40};
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++)
        for (uint32_t slots = BSHM_MIN_SLOTS; slots <= BSHM_MAX_SLOTS; slots++) {
            bshm_identity identity;
            REQUIRE(bshm_identity_plan(&identity, capacities[i], slots, 0, NULL) == BSHM_OK);
            bshm_identity_seal(&identity);
            CHECK_EQUAL(identity.slot_stride % BSHM_REGION_BYTES, 0);
            CHECK(identity.slot_stride >= capacities[i] && identity.slot_stride - capacities[i] < BSHM_REGION_BYTES);
            CHECK_EQUAL(identity.slot_capacity, capacities[i]);
            CHECK_EQUAL(identity.total_bytes, 2 * BSHM_REGION_BYTES + slots * identity.slot_stride);
            CHECK_EQUAL(bshm_backed_bytes(&identity, 3), 2 * BSHM_REGION_BYTES + 3 * identity.slot_stride);
            CHECK_EQUAL(bshm_identity_check(&identity, identity.total_bytes, "name", NULL), BSHM_OK);
        }
}

static void two_plans_have_two_generations(void)
{
    bshm_identity one = good();
    bshm_identity two = good();
    CHECK(memcmp(one.generation, two.generation, sizeof one.generation) != 0);
}

static void an_impossible_plan_is_refused(void)
{
    bshm_identity identity;
    bshm_error error;
    CHECK_EQUAL(bshm_identity_plan(&identity, 0, 8, 0, &error), BSHM_E_SHAPE);
    CHECK_EQUAL(bshm_identity_plan(&identity, (UINT64_C(1) << 40) + 1, 8, 0, &error), BSHM_E_SHAPE);
    CHECK_EQUAL(bshm_identity_plan(&identity, UINT64_MAX, 8, 0, &error), BSHM_E_SHAPE);
    CHECK_CONTAINS(error.message, "18446744073709551615");
    CHECK_EQUAL(bshm_identity_plan(&identity, CAPACITY, 2, 0, &error), BSHM_E_ARGUMENT);
    CHECK_EQUAL(bshm_identity_plan(&identity, CAPACITY, 63, 0, &error), BSHM_E_ARGUMENT);
    CHECK_CONTAINS(error.message, "63");
    CHECK_EQUAL(bshm_identity_plan(&identity, CAPACITY, 0, 0, NULL), BSHM_E_ARGUMENT);
    CHECK_EQUAL(bshm_identity_plan(&identity, CAPACITY, UINT32_MAX, 0, NULL), BSHM_E_ARGUMENT);
}

/* ---------------------------------------------------------------- identity */

static void an_identity_is_believed_for_its_object_and_larger_ones_only(void)
{
    bshm_identity identity = good();
    bshm_error error;
    CHECK_EQUAL(bshm_identity_check(&identity, identity.total_bytes, "name", &error), BSHM_OK);
    CHECK_EQUAL(bshm_identity_check(&identity, identity.total_bytes + 1, "name", &error), BSHM_OK);
    CHECK_EQUAL(bshm_identity_check(&identity, UINT64_MAX, "name", &error), BSHM_OK);
    CHECK_EQUAL(bshm_identity_check(&identity, identity.total_bytes - 1, "name", &error), BSHM_E_FORMAT);
    CHECK_CONTAINS(error.message, "name");
    CHECK_EQUAL(bshm_identity_check(&identity, 0, "name", &error), BSHM_E_FORMAT);
    identity.abi_minor++; /* a later minor version */
    bshm_identity_seal(&identity);
    CHECK_EQUAL(bshm_identity_check(&identity, identity.total_bytes, "name", &error), BSHM_OK);
}

static void any_changed_byte_of_an_identity_is_noticed(void)
{
    bshm_identity identity = good();
    uint8_t *bytes = (uint8_t *)&identity;
    for (size_t i = 0; i < sizeof identity; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            bytes[i] ^= (uint8_t)(1u << bit);
            CHECK_EQUAL(bshm_identity_check(&identity, UINT64_MAX, "name", NULL), BSHM_E_FORMAT);
            bytes[i] ^= (uint8_t)(1u << bit);
        }
    CHECK_EQUAL(bshm_identity_check(&identity, UINT64_MAX, "name", NULL), BSHM_OK);
}

/* With a valid checksum: an attacker can compute one. */
#define FORGED(field, value)                                                                                           \
    do {                                                                                                               \
        bshm_identity forged = good();                                                                                 \
        bshm_error error = {0};                                                                                        \
        forged.field = (value);                                                                                        \
        bshm_identity_seal(&forged);                                                                                   \
        CHECK_EQUAL(bshm_identity_check(&forged, UINT64_MAX, "some-name", &error), BSHM_E_FORMAT);                     \
        CHECK_EQUAL(error.code, BSHM_E_FORMAT);                                                                        \
        CHECK_CONTAINS(error.message, "some-name");                                                                    \
        CHECK_EQUAL(bshm_identity_check(&forged, UINT64_MAX, "some-name", NULL), BSHM_E_FORMAT);                       \
    } while (0)

static void no_field_is_believed_because_the_checksum_is_right(void)
{
    static const uint64_t wide[] = {0,
                                    1,
                                    4095,
                                    65535,
                                    65537,
                                    UINT64_C(1) << 31,
                                    UINT64_C(1) << 32,
                                    (UINT64_C(1) << 41) + BSHM_REGION_BYTES,
                                    UINT64_C(1) << 63,
                                    UINT64_MAX / 8,
                                    UINT64_MAX / 8 + 1,
                                    UINT64_MAX - 65535,
                                    UINT64_MAX};
    static const uint32_t narrow[] = {0, 1, 2, 4095, 65535, 65537, UINT32_C(1) << 31, UINT32_MAX};
    FORGED(magic[0], 'b');
    FORGED(magic[7], 0);
    FORGED(abi_major, 0);
    FORGED(abi_major, BSHM_ABI_MAJOR + 1);
    FORGED(abi_major, UINT16_MAX);
    FORGED(byte_order, 0);
    FORGED(byte_order, 0x0D0C0B0A);
    FORGED(slot_count, 0);
    FORGED(slot_count, 1);
    FORGED(slot_count, 2);
    FORGED(slot_count, 9); /* more than total_bytes covers */
    FORGED(slot_count, 63);
    FORGED(slot_count, 64);
    FORGED(slot_count, UINT32_MAX);
    FORGED(token_count, 0);
    FORGED(token_count, 5);
    FORGED(token_count, UINT32_MAX - 1);
    FORGED(history, 1);
    FORGED(history, UINT32_MAX);
    FORGED(slot_capacity, 0);
    FORGED(slot_capacity, good().slot_stride + 1);
    FORGED(slot_capacity, UINT64_MAX);
    FORGED(base_sequence, BSHM_MAX_SEQUENCE + 1);
    FORGED(base_sequence, UINT64_MAX);
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++) {
        FORGED(total_bytes, wide[i]);
        FORGED(slot_stride, wide[i]);
        FORGED(control_offset, wide[i]);
        FORGED(pixels_offset, wide[i]);
    }
    for (size_t i = 0; i < sizeof narrow / sizeof narrow[0]; i++) {
        FORGED(header_bytes, narrow[i]);
        FORGED(descriptor_offset, narrow[i]);
    }
}

/* Refused for its own value, not because total_bytes does not match. */
#define FORGED_WITH_ITS_SUM(field, value)                                                                              \
    do {                                                                                                               \
        bshm_identity forged = good();                                                                                 \
        bshm_error error = {0};                                                                                        \
        forged.field = (value);                                                                                        \
        forged.token_count = forged.slot_count - 2;                                                                    \
        forged.total_bytes = forged.pixels_offset + forged.slot_count * forged.slot_stride;                            \
        bshm_identity_seal(&forged);                                                                                   \
        CHECK_EQUAL(bshm_identity_check(&forged, UINT64_MAX, "some-name", &error), BSHM_E_FORMAT);                     \
    } while (0)

static void no_field_is_believed_because_the_sum_is_right(void)
{
    FORGED_WITH_ITS_SUM(slot_count, 0);
    FORGED_WITH_ITS_SUM(slot_count, BSHM_MIN_SLOTS - 1);
    FORGED_WITH_ITS_SUM(slot_count, BSHM_MAX_SLOTS + 1);
    FORGED_WITH_ITS_SUM(slot_count, 64);
    FORGED_WITH_ITS_SUM(pixels_offset, 0);
    FORGED_WITH_ITS_SUM(pixels_offset, BSHM_REGION_BYTES);
    FORGED_WITH_ITS_SUM(pixels_offset, 3 * BSHM_REGION_BYTES);
    FORGED_WITH_ITS_SUM(slot_stride, good().slot_stride + 4096);
    FORGED_WITH_ITS_SUM(slot_stride, (UINT64_C(1) << 41) + BSHM_REGION_BYTES);
}

static void there_are_slots_for_tokens_and_history_and_two_more(void)
{
    static const uint32_t pairs[][2] = {{0, 6}, {7, UINT32_MAX}, {UINT32_MAX, 7}}; /* with a sum that would be right */
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        bshm_identity forged = good();
        forged.token_count = pairs[i][0];
        forged.history = pairs[i][1];
        bshm_identity_seal(&forged);
        CHECK_EQUAL(bshm_identity_check(&forged, UINT64_MAX, "name", NULL), BSHM_E_FORMAT);
    }
}

static void sizes_whose_product_overflows_are_refused(void)
{
    /* slot_count * slot_stride wraps to the value of total_bytes. */
    for (uint32_t slots = BSHM_MIN_SLOTS; slots <= BSHM_MAX_SLOTS; slots++)
        for (unsigned shift = 16; shift < 64; shift++) {
            bshm_identity forged = good();
            forged.slot_count = slots;
            forged.token_count = slots - 2;
            forged.slot_stride = UINT64_C(1) << shift;
            forged.slot_capacity = 1;
            forged.total_bytes = 2 * BSHM_REGION_BYTES + slots * forged.slot_stride;
            bshm_identity_seal(&forged);
            int rc = bshm_identity_check(&forged, UINT64_MAX, "name", NULL);
            CHECK_EQUAL(rc, shift <= 41 ? BSHM_OK : BSHM_E_FORMAT);
        }
}

/* ---------------------------------------------------------------- frames */

static bshm_frame_info frame_of(uint32_t height, uint32_t width, uint32_t channels, uint32_t item_size)
{
    bshm_frame_info info = {
        .height = height, .width = width, .channels = channels, .item_size = item_size, .kind = 'u'};
    info.ndim = 3;
    info.row_stride = (uint64_t)width * channels * item_size;
    info.payload_bytes = info.row_stride * height;
    return info;
}

static void items_have_one_of_the_fixed_sizes(void)
{
    static const char kinds[] = "biufc";
    static const uint64_t sizes[] = {UINT64_C(1) << 1, /* a bit for each size that exists */
                                     1 << 1 | 1 << 2 | 1 << 4 | 1 << 8, 1 << 1 | 1 << 2 | 1 << 4 | 1 << 8,
                                     1 << 2 | 1 << 4 | 1 << 8, 1 << 8 | 1 << 16};
    for (size_t i = 0; i < 5; i++)
        for (uint32_t size = 0; size <= 33; size++) {
            bshm_frame_info info = frame_of(2, 2, 1, size);
            info.kind = (uint32_t)kinds[i];
            bool exists = size < 64 && (sizes[i] >> size & 1);
            CHECK_EQUAL(bshm_info_plan(&info, NULL), exists ? BSHM_OK : BSHM_E_SHAPE);
        }
    bshm_frame_info strange = frame_of(2, 2, 1, 1);
    for (uint32_t kind = 0; kind < 300; kind++) {
        strange.kind = kind;
        CHECK_EQUAL(bshm_info_plan(&strange, NULL), kind == 'b' || kind == 'i' || kind == 'u' ? BSHM_OK : BSHM_E_SHAPE);
    }
    strange.kind = UINT32_MAX;
    CHECK_EQUAL(bshm_info_plan(&strange, NULL), BSHM_E_SHAPE);
}

static void a_frame_has_two_or_three_dimensions_and_none_is_zero(void)
{
    bshm_error error;
    for (uint32_t ndim = 0; ndim < 6; ndim++) {
        bshm_frame_info info = frame_of(4, 5, 1, 1);
        info.ndim = ndim;
        CHECK_EQUAL(bshm_info_plan(&info, &error), ndim == 2 || ndim == 3 ? BSHM_OK : BSHM_E_SHAPE);
    }
    bshm_frame_info flat = frame_of(4, 5, 7, 1);
    flat.ndim = 2;
    CHECK_EQUAL(bshm_info_plan(&flat, &error), BSHM_OK);
    CHECK_EQUAL(flat.channels, 1);
    CHECK_EQUAL(flat.payload_bytes, 20);
    for (int zero = 0; zero < 3; zero++) {
        bshm_frame_info info = frame_of(zero != 0, zero != 1, zero != 2, 1);
        CHECK_EQUAL(bshm_info_plan(&info, &error), BSHM_E_SHAPE);
        CHECK_CONTAINS(error.message, "each at least 1");
    }
}

static void a_frame_beyond_a_tebibyte_is_refused_even_if_its_size_overflows(void)
{
    static const uint32_t many[] = {1, 2, 3, 65535, 65536, 1 << 20, UINT32_C(1) << 31, UINT32_MAX - 1, UINT32_MAX};
    static const uint32_t sizes[] = {1, 8};
    size_t count = sizeof many / sizeof many[0];
    for (size_t h = 0; h < count; h++)
        for (size_t w = 0; w < count; w++)
            for (size_t c = 0; c < count; c++)
                for (size_t i = 0; i < 2; i++) {
                    bshm_frame_info info = frame_of(many[h], many[w], many[c], sizes[i]);
                    double bytes = (double)many[h] * many[w] * many[c] * sizes[i];
                    bool fits = bytes <= 1099511627776.0 && (double)many[c] * sizes[i] <= 2147483648.0;
                    int rc = bshm_info_plan(&info, NULL);
                    CHECK_EQUAL(rc, fits ? BSHM_OK : BSHM_E_SHAPE);
                    if (rc == BSHM_OK)
                        CHECK((double)info.payload_bytes >= bytes && (double)info.payload_bytes <= bytes);
                }
}

#define DESCRIBED(field, value)                                                                                        \
    do {                                                                                                               \
        bshm_frame_info poked = frame_of(100, 50, 4, 2);                                                               \
        bshm_error error = {0};                                                                                        \
        poked.field = (value);                                                                                         \
        CHECK_EQUAL(bshm_info_check(&poked, CAPACITY, "some-name", &error), BSHM_E_FORMAT);                            \
        CHECK_CONTAINS(error.message, "some-name");                                                                    \
        CHECK_EQUAL(bshm_info_check(&poked, CAPACITY, "some-name", NULL), BSHM_E_FORMAT);                              \
    } while (0)

static void a_descriptor_is_believed_only_if_all_of_it_lies_in_its_slot(void)
{
    bshm_frame_info info = frame_of(100, 50, 4, 2);
    CHECK_EQUAL(bshm_info_check(&info, CAPACITY, "name", NULL), BSHM_OK);
    CHECK_EQUAL(bshm_info_check(&info, info.payload_bytes, "name", NULL), BSHM_OK);
    CHECK_EQUAL(bshm_info_check(&info, info.payload_bytes - 1, "name", NULL), BSHM_E_FORMAT);
    CHECK_EQUAL(bshm_info_check(&info, 1, "name", NULL), BSHM_E_FORMAT);
    CHECK_EQUAL(bshm_info_check(&info, 0, "name", NULL), BSHM_E_FORMAT);
    DESCRIBED(height, 0);
    DESCRIBED(height, 101); /* more rows than bytes */
    DESCRIBED(height, UINT32_MAX);
    DESCRIBED(width, 0);
    DESCRIBED(width, 51);
    DESCRIBED(width, UINT32_MAX);
    DESCRIBED(channels, 0);
    DESCRIBED(channels, 5);
    DESCRIBED(channels, UINT32_MAX);
    DESCRIBED(item_size, 0);
    DESCRIBED(item_size, 3);
    DESCRIBED(item_size, 4);
    DESCRIBED(item_size, UINT32_MAX);
    DESCRIBED(ndim, 0);
    DESCRIBED(ndim, 2); /* with four channels */
    DESCRIBED(ndim, UINT32_MAX);
    DESCRIBED(kind, 0);
    DESCRIBED(kind, UINT32_MAX);
    DESCRIBED(row_stride, 0);
    DESCRIBED(row_stride, 399);
    DESCRIBED(row_stride, CAPACITY / 100 + 1);
    DESCRIBED(row_stride, UINT64_MAX / 100 + 2); /* times 100 it is small */
    DESCRIBED(row_stride, UINT64_MAX);
    DESCRIBED(payload_bytes, 0);
    DESCRIBED(payload_bytes, 39999);
    DESCRIBED(payload_bytes, CAPACITY + 1);
    DESCRIBED(payload_bytes, UINT64_MAX);
}

static void rows_whose_distance_times_their_number_overflows_are_refused(void)
{
    bshm_frame_info info = frame_of((1u << 31) + 1, 64, 1, 1); /* one row more than overflows 2^33 */
    CHECK_EQUAL(bshm_info_check(&info, UINT64_C(1) << 40, "name", NULL), BSHM_OK);
    info.row_stride = UINT64_C(1) << 33;
    info.payload_bytes = UINT64_C(1) << 38;
    CHECK_EQUAL(bshm_info_check(&info, UINT64_C(1) << 40, "name", NULL), BSHM_E_FORMAT);
}

static void rows_may_be_padded(void)
{
    bshm_frame_info info = frame_of(100, 50, 4, 2);
    info.row_stride = 512;
    info.payload_bytes = 99 * 512 + 400; /* the last row needs no padding */
    CHECK_EQUAL(bshm_info_check(&info, CAPACITY, "name", NULL), BSHM_OK);
    info.payload_bytes--;
    CHECK_EQUAL(bshm_info_check(&info, CAPACITY, "name", NULL), BSHM_E_FORMAT);
    info.payload_bytes = 100 * 512;
    CHECK_EQUAL(bshm_info_check(&info, 100 * 512, "name", NULL), BSHM_OK);
}

/* ---------------------------------------------------------------- owners, texts */

static void owners_beyond_the_limit_are_refused(void)
{
    uint32_t uids[17] = {0};
    bshm_trusted trusted;
    bshm_error error;
    for (uint32_t i = 0; i < 17; i++)
        uids[i] = 5000 + i;
    CHECK_EQUAL(bshm_trusted_copy(&trusted, NULL, &error), BSHM_OK);
    CHECK(bshm_trusts(&trusted, 0) && bshm_trusts(&trusted, bshm_os_user_id()) && !bshm_trusts(&trusted, 5000));
    CHECK_EQUAL(bshm_trusted_copy(&trusted, &(bshm_owners){NULL, 0}, &error), BSHM_OK);
    CHECK(!bshm_trusts(&trusted, 5000));
    CHECK_EQUAL(bshm_trusted_copy(&trusted, &(bshm_owners){uids, 16}, &error), BSHM_OK);
    CHECK(bshm_trusts(&trusted, 5000) && bshm_trusts(&trusted, 5015) && !bshm_trusts(&trusted, 5016));
    CHECK_EQUAL(bshm_trusted_copy(&trusted, &(bshm_owners){uids, 17}, &error), BSHM_E_ARGUMENT);
    CHECK_CONTAINS(error.message, "17");
    CHECK_EQUAL(bshm_trusted_copy(&trusted, &(bshm_owners){uids, SIZE_MAX}, NULL), BSHM_E_ARGUMENT);
}

static void texts_are_cut_between_characters_and_always_terminated(void)
{
    bshm_shared64 words[2];
    char back[17];
    CHECK_EQUAL(bshm_text_fit("", 16), 0);
    CHECK_EQUAL(bshm_text_fit("0123456789abcdef", 16), 16);
    CHECK_EQUAL(bshm_text_fit("0123456789abcdefg", 16), 16);
    CHECK_EQUAL(bshm_text_fit("0123456789abcde\xC3\xBC", 16), 15);        /* an umlaut, cut by the limit */
    CHECK_EQUAL(bshm_text_fit("0123456789abcde\xE2\x82\xAC", 16), 15);    /* a euro sign */
    CHECK_EQUAL(bshm_text_fit("0123456789abcd\xF0\x9F\x8E\xB1", 16), 14); /* a billiard ball */
    CHECK_EQUAL(bshm_text_fit("0123456789ab\xF0\x9F\x8E\xB1", 16), 16);
    CHECK_EQUAL(bshm_text_fit("\x80\x80\x80\x80", 2), 0); /* not UTF-8 at all */
    memset(words, 0xFF, sizeof words);
    bshm_text_store(words, 2, "short");
    bshm_text_load(words, 2, back);
    CHECK(strcmp(back, "short") == 0);
    bshm_text_store(words, 2, "0123456789abcde\xC3\xBC");
    bshm_text_load(words, 2, back);
    CHECK(strcmp(back, "0123456789abcde") == 0);
    memset(words, 'x', sizeof words); /* not terminated */
    bshm_text_load(words, 2, back);
    CHECK_EQUAL(strlen(back), 16);
}

static void a_text_that_is_being_written_is_not_read(void)
{
    static bshm_statistics statistics;
    bshm_source_view view;
    bshm_text_store(statistics.reason, 16, "half a text");
    CHECK(bshm_statistics_read(&statistics, &view) && strcmp(view.reason, "half a text") == 0);
    statistics.text_seq.shared = 1;
    CHECK(!bshm_statistics_read(&statistics, &view));
    statistics.text_seq.shared = 2;
    CHECK(bshm_statistics_read(&statistics, &view));
}

/* ---------------------------------------------------------------- errors */

static void every_code_has_a_name_and_nothing_else_has(void)
{
    const char *unknown = bshm_code_name(1);
    for (int code = 0; code > -BSHM_CODE_COUNT; code--) {
        CHECK(strcmp(bshm_code_name(code), unknown) != 0 && strlen(bshm_code_name(code)) > 1);
        for (int other = 0; other > code; other--)
            CHECK(strcmp(bshm_code_name(code), bshm_code_name(other)) != 0);
    }
    static const int none[] = {1, 2, -BSHM_CODE_COUNT, -BSHM_CODE_COUNT - 1, 1000, -1000, INT_MAX, -INT_MAX, INT_MIN};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        CHECK(strcmp(bshm_code_name(none[i]), unknown) == 0);
}

static void the_systems_error_becomes_a_code_and_keeps_its_number(void)
{
    static const struct {
        int system, code;
    } pairs[] = {{ENOENT, BSHM_E_NOT_FOUND}, {EACCES, BSHM_E_PERMISSION}, {EPERM, BSHM_E_PERMISSION},
                 {EROFS, BSHM_E_PERMISSION}, {ENOMEM, BSHM_E_MEMORY},     {EMFILE, BSHM_E_SYSTEM},
                 {EIO, BSHM_E_SYSTEM},       {12345, BSHM_E_SYSTEM}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        bshm_error error = {0};
        CHECK_EQUAL(bshm_fail_system(&error, -pairs[i].system, "open", "/some/path"), pairs[i].code);
        CHECK_EQUAL(error.code, pairs[i].code);
        CHECK_EQUAL(error.system_errno, pairs[i].system);
        CHECK_CONTAINS(error.message, "cannot open '/some/path': ");
        CHECK_EQUAL(bshm_fail_system(NULL, -pairs[i].system, "open", "/some/path"), pairs[i].code);
    }
}

static void messages_are_cut_and_always_terminated(void)
{
    char path[2000];
    bshm_error error;
    memset(&error, 0xFF, sizeof error);
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = '\0';
    CHECK_EQUAL(bshm_fail(&error, BSHM_E_NAME, "%s", path), BSHM_E_NAME);
    CHECK_EQUAL(strlen(error.message), sizeof error.message - 1);
    CHECK_EQUAL(error.system_errno, 0);
    CHECK_EQUAL(bshm_fail(NULL, BSHM_E_NAME, "%s", path), BSHM_E_NAME);
}

int main(void)
{
    RUN(a_plan_is_what_was_asked_for_on_region_boundaries);
    RUN(two_plans_have_two_generations);
    RUN(an_impossible_plan_is_refused);
    RUN(an_identity_is_believed_for_its_object_and_larger_ones_only);
    RUN(any_changed_byte_of_an_identity_is_noticed);
    RUN(no_field_is_believed_because_the_checksum_is_right);
    RUN(no_field_is_believed_because_the_sum_is_right);
    RUN(there_are_slots_for_tokens_and_history_and_two_more);
    RUN(sizes_whose_product_overflows_are_refused);
    RUN(items_have_one_of_the_fixed_sizes);
    RUN(a_frame_has_two_or_three_dimensions_and_none_is_zero);
    RUN(a_frame_beyond_a_tebibyte_is_refused_even_if_its_size_overflows);
    RUN(a_descriptor_is_believed_only_if_all_of_it_lies_in_its_slot);
    RUN(rows_whose_distance_times_their_number_overflows_are_refused);
    RUN(rows_may_be_padded);
    RUN(owners_beyond_the_limit_are_refused);
    RUN(texts_are_cut_between_characters_and_always_terminated);
    RUN(a_text_that_is_being_written_is_not_read);
    RUN(every_code_has_a_name_and_nothing_else_has);
    RUN(the_systems_error_becomes_a_code_and_keeps_its_number);
    RUN(messages_are_cut_and_always_terminated);
    return check_summary();
}
