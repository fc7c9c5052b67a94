/* statistics.c - the words and texts of bshm_statistics: read, summed, reported. */
#include "statistics.h"

#include "ordering.h"

#include <stddef.h>
#include <string.h>

#define UNCHANGED UINT64_MAX /* a word of a report that leaves the value unchanged */

/* ---------------------------------------------------------------- texts */

size_t bshm_text_fit(const char *text, size_t limit)
{
    size_t bytes = strlen(text);
    if (bytes <= limit)
        return bytes;
    bytes = limit;
    while (bytes > 0 && ((uint8_t)text[bytes] & 0xC0) == 0x80) /* a continuation byte: its character starts before it */
        bytes--;
    return bytes;
}

void bshm_text_store(bshm_shared64 *words, size_t count, const char *text)
{
    size_t bytes = bshm_text_fit(text, count * 8);
    for (size_t i = 0; i < count; i++) {
        uint64_t word = 0;
        if (i * 8 < bytes)
            memcpy(&word, text + i * 8, bytes - i * 8 < 8 ? bytes - i * 8 : 8);
        bshm_store_relaxed(&words[i], word);
    }
}

void bshm_text_load(const bshm_shared64 *words, size_t count, char *text)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t word = bshm_load_relaxed(&words[i]);
        memcpy(text + i * 8, &word, 8);
    }
    text[count * 8] = '\0';
}

/* ---------------------------------------------------------------- reading */

void bshm_statistics_copy(bshm_statistics *copy, const bshm_statistics *statistics)
{
    bshm_shared64 *words_of_copy = (bshm_shared64 *)copy;
    const bshm_shared64 *words = (const bshm_shared64 *)statistics;
    for (size_t i = 0; i < BSHM_STATISTICS_WORDS; i++)
        words_of_copy[i].shared = bshm_load_relaxed(&words[i]);
}

bool bshm_statistics_read(const bshm_statistics *statistics, bshm_source_view *view)
{
    bshm_statistics_copy(&view->statistics, statistics);
    /* A seqlock: a text that changed in between is read again. */
    for (int attempt = 0; attempt < BSHM_READ_ATTEMPTS; attempt++) {
        uint64_t before = bshm_load_acquire(&statistics->text_seq);
        bshm_text_load(statistics->reason, 16, view->reason);
        bshm_text_load(statistics->backend, 4, view->backend);
        bshm_fence_acquire();
        if (!(before & 1) && bshm_load_relaxed(&statistics->text_seq) == before)
            return true;
    }
    return false;
}

/* ---------------------------------------------------------------- summing */

/* The words that the writer counts itself, from zero in each segment, besides the latency buckets. */
static const size_t own_counters[] = {
    offsetof(bshm_statistics, published),     offsetof(bshm_statistics, dropped),
    offsetof(bshm_statistics, leases_broken), offsetof(bshm_statistics, write_ns_total),
    offsetof(bshm_statistics, bytes_written),
};

static void add_word(bshm_statistics *sums, const bshm_statistics *statistics, size_t offset)
{
    ((bshm_shared64 *)sums)[offset / 8].shared += ((const bshm_shared64 *)statistics)[offset / 8].shared;
}

void bshm_statistics_add(bshm_statistics *sums, const bshm_statistics *statistics)
{
    bshm_statistics earlier = *sums;
    bshm_statistics_copy(sums, statistics);
    for (size_t i = 0; i < sizeof own_counters / sizeof own_counters[0]; i++)
        add_word(sums, &earlier, own_counters[i]);
    for (size_t i = 0; i < BSHM_LATENCY_BUCKETS; i++)
        add_word(sums, &earlier, offsetof(bshm_statistics, write_ns_log2) + 8 * i);
}

/* ---------------------------------------------------------------- reports of the source */

void bshm_source_report_init(bshm_source_report *report)
{
    memset(&report->statistics, 0xFF, sizeof report->statistics);
    report->reason = NULL;
    report->backend = NULL;
}

static void report_words(bshm_statistics *statistics, const bshm_source_report *report)
{
    const bshm_shared64 *reported = (const bshm_shared64 *)&report->statistics;
    bshm_shared64 *words = (bshm_shared64 *)statistics;
    for (size_t i = 0; i < BSHM_STATISTICS_WORDS; i++)
        if (reported[i].shared != UNCHANGED)
            bshm_store_relaxed(&words[i], reported[i].shared);
}

void bshm_statistics_report(bshm_statistics *statistics, const bshm_source_report *report)
{
    report_words(statistics, report);
    if (!report->reason && !report->backend)
        return;
    uint64_t odd =
        bshm_load_relaxed(&statistics->text_seq) | 1; /* also after an odd one, which would stay odd forever */
    bshm_store_relaxed(&statistics->text_seq, odd);
    bshm_fence_seq_cst(); /* as W5 */
    if (report->reason)
        bshm_text_store(statistics->reason, 16, report->reason);
    if (report->backend)
        bshm_text_store(statistics->backend, 4, report->backend);
    bshm_store_release(&statistics->text_seq, odd + 1);
}

static void copy_text(char *kept, const char *text, size_t bytes)
{
    size_t length = bshm_text_fit(text, bytes - 1);
    memcpy(kept, text, length);
    kept[length] = '\0';
}

void bshm_report_keep(bshm_kept_report *kept, const bshm_source_report *report)
{
    report_words(&kept->report.statistics, report);
    if (report->reason) {
        copy_text(kept->reason, report->reason, sizeof kept->reason);
        kept->report.reason = kept->reason;
    }
    if (report->backend) {
        copy_text(kept->backend, report->backend, sizeof kept->backend);
        kept->report.backend = kept->backend;
    }
}
