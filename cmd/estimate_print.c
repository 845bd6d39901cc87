/* The report of `gmm-dedup estimate` for people: tables of at most 100 columns, sizes in MiB. */
#include "cmd/estimate.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#define MATRIX_IMAGES_MAX 12u /* more do not fit on a line: the best pairs instead */
#define BEST_PAIRS        12u
#define NAME_COLUMNS      26

struct pair {
	size_t i;
	size_t j;
	uint64_t common;
};

static double mib(uint64_t pages)
{
	return (double)pages / (1048576.0 / IMAGE_PAGE_BYTES);
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0.0;
}

/* The end of a path, which tells files apart better than its start, without what a terminal would obey. */
static const char *short_name(const char *path, char *buffer)
{
	size_t length = strlen(path), skip = length > NAME_COLUMNS ? length - NAME_COLUMNS + 2 : 0, at = 0;

	if (skip > 0) {
		buffer[at++] = '.';
		buffer[at++] = '.';
	}
	for (const char *c = path + skip; *c; c++)
		buffer[at++] = *c < ' ' || *c > '~' ? '?' : *c;
	buffer[at] = 0;
	return buffer;
}

static void print_images(const struct gmm__estimate *e, const struct gmm__image *images, FILE *out)
{
	char name[NAME_COLUMNS + 1];
	uint64_t unique_pages = 0, absent_pages = 0;

	fprintf(out, "\n  # %-*s %9s %8s %8s %8s %8s %8s %8s\n", NAME_COLUMNS, "image (MiB)", "size", "zero",
		"fill", "shared", "unique", "alone", "marginal");
	for (size_t i = 0; i < e->image_count; i++) {
		const struct gmm__estimate_image *image = &e->images[i];

		fprintf(out, "%3zu %-*s %9.1f %8.1f %8.1f %8.1f %8.1f %8.1f %8.1f\n", i + 1, NAME_COLUMNS,
			short_name(images[i].path, name), mib(image->total_pages), mib(image->zero_pages),
			mib(image->fill_pages), mib(image->shared_pages), mib(image->unique_pages),
			mib(gmm__estimate_saved_alone(e, i)), mib(gmm__estimate_saved_marginal(e, i)));
		unique_pages += image->unique_pages;
		absent_pages += images[i].absent_pages;
	}
	fprintf(out, "    %-*s %9.1f %8.1f %8.1f %8.1f %8.1f %8s %8.1f\n", NAME_COLUMNS, "all",
		mib(e->total_pages), mib(e->zero_pages), mib(e->fill_pages), mib(e->shared_pages),
		mib(unique_pages), "", mib(e->saved_pages));
	fprintf(out,
		"size = zero + shared + unique; fill pages (one word repeated) are in shared or unique.\n"
		"alone: saved inside the image itself. marginal: how much less would be saved without it.\n");
	if (absent_pages)
		fprintf(out, "%.1f MiB more are named in cores but not in the files: not counted.\n",
			mib(absent_pages));
}

static void print_matrix(const struct gmm__estimate *e, FILE *out)
{
	/* A hundred GiB and more need the column of the decimal. */
	int decimals = mib(e->total_pages) < 1e5 ? 1 : 0;

	fprintf(out, "\ncommon contents of two images, MiB: "
		     "what the pair saves beyond what each saves alone\n   ");
	for (size_t j = 0; j < e->image_count; j++)
		fprintf(out, " %7zu", j + 1);
	fputc('\n', out);
	for (size_t i = 0; i < e->image_count; i++) {
		fprintf(out, "%3zu", i + 1);
		for (size_t j = 0; j < e->image_count; j++) {
			if (i == j)
				fprintf(out, " %7s", "-");
			else
				fprintf(out, " %7.*f", decimals, mib(gmm__estimate_common(e, i, j)));
		}
		fputc('\n', out);
	}
}

static void print_best_pairs(const struct gmm__estimate *e, const struct gmm__image *images, FILE *out)
{
	struct pair best[BEST_PAIRS + 1]; /* descending; the last is room for one more */
	char name_i[NAME_COLUMNS + 1], name_j[NAME_COLUMNS + 1];
	size_t count = 0;

	for (size_t i = 0; i < e->image_count; i++) {
		for (size_t j = i + 1; j < e->image_count; j++) {
			struct pair pair = { i, j, gmm__estimate_common(e, i, j) };
			size_t at = count;

			for (; at > 0 && best[at - 1].common < pair.common; at--)
				best[at] = best[at - 1];
			best[at] = pair;
			count += count < BEST_PAIRS;
		}
	}
	fprintf(out,
		"\nthe %zu pairs with most common contents, MiB: "
		"what the pair saves beyond what each saves alone\n",
		count);
	for (size_t p = 0; p < count; p++)
		fprintf(out, "%9.1f  %4zu %-*s %4zu %-*s\n", mib(best[p].common), best[p].i + 1, NAME_COLUMNS,
			short_name(images[best[p].i].path, name_i), best[p].j + 1, NAME_COLUMNS,
			short_name(images[best[p].j].path, name_j));
}

static void print_runs(const struct gmm__estimate *e, FILE *out)
{
	fprintf(out,
		"\nruns of consecutive shared pages: %" PRIu64 ", the longest %" PRIu64 " pages; %" PRIu64
		" of them are fill pages\n",
		e->runs, e->longest_run_pages, e->fill_runs);
	if (e->runs == 0)
		return;
	fprintf(out, "%24s %10s %10s %8s\n", "pages in the run", "runs", "MiB", "of all");
	for (unsigned c = 0; c < ESTIMATE_RUN_CLASSES; c++) {
		const struct gmm__estimate_run_class *class = &e->run_classes[c];
		uint64_t low = 1ull << c, high = 2 * low - 1;

		if (class->runs == 0)
			continue;
		if (low == high)
			fprintf(out, "%24" PRIu64, low);
		else
			fprintf(out, "%11" PRIu64 " - %10" PRIu64, low, high);
		fprintf(out, " %10" PRIu64 " %10.1f %7.1f%%\n", class->runs, mib(class->pages),
			percent(class->pages, e->run_pages));
	}
}

static void print_thresholds(const struct gmm__estimate *e, FILE *out)
{
	fprintf(out,
		"\nkept when only runs of at least so many pages are mapped (a mapping is 1 to 2 VMAs)\n"
		"%10s %12s %12s %12s %10s %10s\n",
		"run pages", "mappings", "most in one", "saved MiB", "of RAM", "of best");
	for (unsigned t = 0; t < ESTIMATE_THRESHOLDS; t++) {
		const struct gmm__estimate_threshold *threshold = &e->thresholds[t];

		fprintf(out, "%10" PRIu32 " %12" PRIu64 " %12" PRIu64 " %12.1f %9.1f%% %9.1f%%\n",
			gmm__estimate_thresholds[t], threshold->mappings, threshold->most_mappings,
			mib(threshold->saved_pages), percent(threshold->saved_pages, e->total_pages),
			percent(threshold->saved_pages, e->saved_pages));
	}
	if (e->fill_runs)
		fprintf(out,
			"Fill pages are mapped to extents of up to %u equal pages, "
			"which cost a little of the best.\n",
			ESTIMATE_FILL_EXTENT);
}

void gmm__estimate_print(const struct gmm__estimate *e, const struct gmm__image *images, FILE *out)
{
	fprintf(out, "%zu image%s, %" PRIu64 " pages, %.1f MiB\n", e->image_count,
		e->image_count == 1 ? "" : "s", e->total_pages, mib(e->total_pages));
	print_images(e, images, out);
	if (e->image_count > MATRIX_IMAGES_MAX)
		print_best_pairs(e, images, out);
	else if (e->image_count > 1)
		print_matrix(e, out);
	print_runs(e, out);
	print_thresholds(e, out);
	fprintf(out,
		"\nsaved by zero pages %.1f MiB, by fill pages %.1f MiB, by other equal pages %.1f MiB\n",
		mib(e->zero_pages), mib(e->fill_saved_pages),
		mib(e->saved_pages - e->zero_pages - e->fill_saved_pages));
	fprintf(out, "sharing would save up to %.1f MiB of %.1f MiB: %.1f %%\n", mib(e->saved_pages),
		mib(e->total_pages), percent(e->saved_pages, e->total_pages));
}
