/* What sharing equal pages would save: the figures of `gmm-dedup estimate` and how they are defined.
 *
 * Two pages are equal when their digests are. Saved by sharing everything: every zero page, and all but one
 * of each set of equal pages. That is the upper bound; nothing about mappings is in it.
 *
 * The run model says what is left of it when mappings are scarce. Images are taken in the order given, pages
 * in gfn order. The first page of each set of two or more gets the next slot of the pool, as the engine does
 * when it promotes. Fill pages (pages that repeat one word) do not: each word has an extent of up to
 * ESTIMATE_FILL_EXTENT equal pool pages, so that consecutive fill pages are runs too, none longer than the
 * extent. A run is a stretch of consecutive pages of one image whose slots are consecutive: one mapping, and
 * one or two VMAs, since it splits what it lies in.
 *
 * Threshold T: only runs of at least T pages are mapped. A pool slot that no kept run uses is not needed, an
 * extent is as long as the longest kept run in it. Saved then: zero pages + pages in kept runs - pool slots
 * in use.
 *
 * Memory: 9 bytes a page, while equal pages are being found 5.4 more.
 */
#ifndef CMD_ESTIMATE_H
#define CMD_ESTIMATE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cmd/image.h"

#define ESTIMATE_FILL_EXTENT 64u /* pool pages for one fill word, at most */
#define ESTIMATE_RUN_CLASSES 33u /* class c: runs of 2^c to 2^(c+1) - 1 pages */
#define ESTIMATE_THRESHOLDS  6u
#define ESTIMATE_PAGES_MAX   (UINT32_MAX - 1ull)

/* 1, 2, 4, 8, 16, 64 */
extern const uint32_t gmm__estimate_thresholds[ESTIMATE_THRESHOLDS];

/* total = zero + shared + unique. Pages of fill sets are in shared or unique too. */
struct gmm__estimate_image {
	uint64_t first_page; /* where its pages start in the arrays */
	uint64_t total_pages;
	uint64_t zero_pages;
	uint64_t fill_pages;
	uint64_t shared_pages;                  /* not zero, and an equal page exists somewhere */
	uint64_t unique_pages;                  /* not zero, no equal page anywhere */
	uint64_t distinct_pages;                /* different non-zero contents in it */
	uint64_t exclusive_pages;               /* of these, the contents no other image has */
	uint64_t mappings[ESTIMATE_THRESHOLDS]; /* runs kept */
};

struct gmm__estimate_run_class {
	uint64_t runs;
	uint64_t pages;
};

struct gmm__estimate_threshold {
	uint64_t mappings;      /* kept runs of all images */
	uint64_t most_mappings; /* of the image that has the most */
	uint64_t run_pages;     /* pages in kept runs */
	uint64_t pool_pages;    /* pool slots they use */
	uint64_t saved_pages;
};

struct gmm__estimate {
	uint64_t total_pages;
	uint64_t zero_pages;
	uint64_t fill_pages;       /* repeat one word; not the zero pages */
	uint64_t fill_sets;        /* different fill words */
	uint64_t shared_pages;     /* not zero and in a set of two or more */
	uint64_t shared_sets;      /* the number of such sets */
	uint64_t distinct_pages;   /* different non-zero contents */
	uint64_t saved_pages;      /* zero + everything but one page of each set */
	uint64_t fill_saved_pages; /* the part of saved that is fill pages */
	struct gmm__estimate_image *images;
	size_t image_count;
	uint64_t *common; /* image_count x image_count, for gmm__estimate_common; set where i < j */
	uint64_t runs;
	uint64_t run_pages;
	uint64_t longest_run_pages;
	uint64_t fill_runs;
	uint64_t fill_run_pages;
	struct gmm__estimate_run_class run_classes[ESTIMATE_RUN_CLASSES];
	struct gmm__estimate_threshold thresholds[ESTIMATE_THRESHOLDS];
};

/* Counts everything. digests and kinds (as gmm__image_read leaves them) hold the pages of all images one
 * after another, image_pages[i] of them for image i; both are used up. 0, or -1 with errno set (ENOMEM). */
int gmm__estimate_compute(uint64_t *digests, uint8_t *kinds, const uint64_t *image_pages, size_t image_count,
	struct gmm__estimate *ret_estimate);
void gmm__estimate_free(struct gmm__estimate *estimate);

/* Different non-zero contents that images i and j (i != j) both have. This is what the pair saves beyond what
 * each saves inside itself. */
uint64_t gmm__estimate_common(const struct gmm__estimate *estimate, size_t i, size_t j);

/* What image i would save if it could share with no other image, and i and j if they could share with each
 * other only. Zero pages included. */
uint64_t gmm__estimate_saved_alone(const struct gmm__estimate *estimate, size_t i);
uint64_t gmm__estimate_saved_pair(const struct gmm__estimate *estimate, size_t i, size_t j);

/* How much less would be saved in all if image i were not there. */
uint64_t gmm__estimate_saved_marginal(const struct gmm__estimate *estimate, size_t i);

/* Writes the report for people. images: those the estimate was made of, in its order. */
void gmm__estimate_print(const struct gmm__estimate *estimate, const struct gmm__image *images, FILE *out);

/* Writes one JSON object; estimate_json.c lists its fields. 0, or -1 without memory. Errors of the stream are
 * left for the caller to look for. */
int gmm__estimate_print_json(
	const struct gmm__estimate *estimate, const struct gmm__image *images, FILE *out);

#endif
