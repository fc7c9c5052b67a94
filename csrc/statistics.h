/* statistics.h - the words and texts of bshm_statistics: read, summed, reported. */
#ifndef BSHM_STATISTICS_H
#define BSHM_STATISTICS_H

#include "layout.h"

/* Copies word by word while the writer may be writing: a text in the copy may be half old and half new. */
void bshm_statistics_copy(bshm_statistics *copy, const bshm_statistics *statistics);
/* False: a text was being written during every attempt and may be half old and half new. A living writer finishes in
 * a moment: BSHM_TEXT_RETRIES calls, BSHM_TEXT_RETRY_NS apart, outlast one that was preempted in between. */
bool bshm_statistics_read(const bshm_statistics *statistics, bshm_source_view *view);
#define BSHM_TEXT_RETRIES  100
#define BSHM_TEXT_RETRY_NS INT64_C(200000)
/* How many bytes of a text fit `limit` without cutting a UTF-8 character. */
size_t bshm_text_fit(const char *text, size_t limit);
/* A text as NUL-padded words, cut to fit; and back. */
void bshm_text_store(bshm_shared64 *words, size_t count, const char *text);
void bshm_text_load(const bshm_shared64 *words, size_t count, char *text);

/* Adds what the writer counted in a segment; the other words and the texts replace earlier ones. */
void bshm_statistics_add(bshm_statistics *sums, const bshm_statistics *statistics);

/* A report with its own texts. */
typedef struct bshm_kept_report {
    bshm_source_report report;
    char reason[129];
    char backend[33];
} bshm_kept_report;

/* Stores what a report changes: in a segment; in the report that the next segment begins with. */
void bshm_statistics_report(bshm_statistics *statistics, const bshm_source_report *report);
void bshm_report_keep(bshm_kept_report *kept, const bshm_source_report *report);

#endif
