/* The report of `gmm-dedup estimate --json`. One object; pages are 4096 bytes. Fields are only ever added.
 *
 * page_bytes           4096
 * total_pages          pages of all images
 * zero_pages           all bytes zero
 * fill_pages           repeat one 8-byte word that is not zero; fill_sets: how many different words
 * shared_pages         not zero, an equal page exists; shared_sets: how many different contents
 * unique_pages         not zero, no equal page: total = zero + shared + unique
 * distinct_pages       different non-zero contents: what remains when everything is shared
 * saved_pages          total - distinct; of these zero_pages and fill_saved_pages are zero and fill pages
 * saved_bytes          saved_pages in bytes
 * images[]             path, format (raw, elf, trace), total_pages, zero_pages, fill_pages, shared_pages,
 *                      unique_pages, distinct_pages as above, for one image; exclusive_pages: contents
 *                      that no other image has; absent_pages: named in the core, but not in the file, and
 *                      in no other figure; saved_alone_pages: if it shared only with itself;
 *                      saved_marginal_pages: how much less would be saved without it
 * pairs[]              a, b: indexes into images, a < b; common_pages: different non-zero contents both
 *                      have, which is what the pair saves beyond what each saves alone; saved_pages: if
 *                      only these two shared
 * runs                 count, pages, longest_pages of all runs; fill_count, fill_pages: those of fill pages;
 *                      fill_extent_pages: the longest a run of fill pages can be; histogram[]: min_pages,
 *                      max_pages (a power of two to the next, less one), count, pages
 * thresholds[]         min_run_pages: only runs of so many pages and more are mapped; mappings: runs kept,
 *                      each 1 to 2 VMAs; most_mappings: of the image with the most; run_pages;
 *                      pool_pages: they are mapped to; saved_pages = zero + run - pool; saved_bytes
 */
#include "cmd/estimate.h"

#include <jansson.h>
#include <stdbool.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

struct field {
	const char *name;
	uint64_t value;
};

/* Everything is put into its parent at once, so that the root owns it all and one json_decref cleans up. The
 * functions of jansson take a NULL parent or child for a failure, so that only the result counts. */

static bool put(json_t *object, const char *name, json_t *value)
{
	return json_object_set_new(object, name, value) == 0;
}

static bool put_fields(json_t *object, const struct field *fields, size_t count)
{
	bool ok = true;

	for (size_t i = 0; i < count; i++)
		ok &= put(object, fields[i].name, json_integer((json_int_t)fields[i].value));
	return ok;
}

/* A new array, or object, that belongs to its parent; NULL without memory. */
static json_t *put_array(json_t *object, const char *name)
{
	json_t *array = json_array();

	return put(object, name, array) ? array : NULL;
}

static json_t *append_object(json_t *array)
{
	json_t *object = json_object();

	return json_array_append_new(array, object) == 0 ? object : NULL;
}

/* A path as a JSON string. One that is not UTF-8 loses the bytes that are not ASCII. */
static json_t *path_json(const char *path)
{
	json_t *text = json_string(path);
	char ascii[4096];
	size_t i = 0;

	if (text)
		return text;
	for (; path[i] && i < sizeof(ascii) - 1; i++)
		ascii[i] = (unsigned char)path[i] < 128 ? path[i] : '?';
	ascii[i] = 0;
	return json_string(ascii);
}

static bool put_totals(json_t *root, const struct gmm__estimate *e)
{
	const struct field fields[] = {
		{ "page_bytes", IMAGE_PAGE_BYTES },
		{ "total_pages", e->total_pages },
		{ "zero_pages", e->zero_pages },
		{ "fill_pages", e->fill_pages },
		{ "fill_sets", e->fill_sets },
		{ "shared_pages", e->shared_pages },
		{ "shared_sets", e->shared_sets },
		{ "unique_pages", e->total_pages - e->zero_pages - e->shared_pages },
		{ "distinct_pages", e->distinct_pages },
		{ "saved_pages", e->saved_pages },
		{ "fill_saved_pages", e->fill_saved_pages },
		{ "saved_bytes", e->saved_pages * IMAGE_PAGE_BYTES },
	};

	return put_fields(root, fields, COUNT(fields));
}

static bool put_images(json_t *root, const struct gmm__estimate *e, const struct gmm__image *images)
{
	json_t *array = put_array(root, "images");
	bool ok = true;

	for (size_t i = 0; i < e->image_count && ok; i++) {
		const struct gmm__estimate_image *image = &e->images[i];
		const struct field fields[] = {
			{ "total_pages", image->total_pages },
			{ "zero_pages", image->zero_pages },
			{ "fill_pages", image->fill_pages },
			{ "shared_pages", image->shared_pages },
			{ "unique_pages", image->unique_pages },
			{ "distinct_pages", image->distinct_pages },
			{ "exclusive_pages", image->exclusive_pages },
			{ "absent_pages", images[i].absent_pages },
			{ "saved_alone_pages", gmm__estimate_saved_alone(e, i) },
			{ "saved_marginal_pages", gmm__estimate_saved_marginal(e, i) },
		};
		json_t *object = append_object(array);

		ok = put(object, "path", path_json(images[i].path)) &&
		     put(object, "format", json_string(gmm__image_format_name(images[i].format))) &&
		     put_fields(object, fields, COUNT(fields));
	}
	return array && ok;
}

static bool put_pairs(json_t *root, const struct gmm__estimate *e)
{
	json_t *array = put_array(root, "pairs");
	bool ok = true;

	for (size_t i = 0; i < e->image_count && ok; i++) {
		for (size_t j = i + 1; j < e->image_count && ok; j++) {
			const struct field fields[] = {
				{ "a", i },
				{ "b", j },
				{ "common_pages", gmm__estimate_common(e, i, j) },
				{ "saved_pages", gmm__estimate_saved_pair(e, i, j) },
			};

			ok = put_fields(append_object(array), fields, COUNT(fields));
		}
	}
	return array && ok;
}

static bool put_histogram(json_t *runs, const struct gmm__estimate *e)
{
	json_t *array = put_array(runs, "histogram");
	bool ok = true;

	for (unsigned c = 0; c < ESTIMATE_RUN_CLASSES && ok; c++) {
		const struct gmm__estimate_run_class *class = &e->run_classes[c];
		const struct field fields[] = {
			{ "min_pages", 1ull << c },
			{ "max_pages", (2ull << c) - 1 },
			{ "count", class->runs },
			{ "pages", class->pages },
		};

		if (class->runs > 0)
			ok = put_fields(append_object(array), fields, COUNT(fields));
	}
	return array && ok;
}

static bool put_runs(json_t *root, const struct gmm__estimate *e)
{
	json_t *runs = json_object();
	const struct field fields[] = {
		{ "count", e->runs },
		{ "pages", e->run_pages },
		{ "longest_pages", e->longest_run_pages },
		{ "fill_count", e->fill_runs },
		{ "fill_pages", e->fill_run_pages },
		{ "fill_extent_pages", ESTIMATE_FILL_EXTENT },
	};

	return put(root, "runs", runs) && put_fields(runs, fields, COUNT(fields)) && put_histogram(runs, e);
}

static bool put_thresholds(json_t *root, const struct gmm__estimate *e)
{
	json_t *array = put_array(root, "thresholds");
	bool ok = true;

	for (unsigned t = 0; t < ESTIMATE_THRESHOLDS && ok; t++) {
		const struct gmm__estimate_threshold *threshold = &e->thresholds[t];
		const struct field fields[] = {
			{ "min_run_pages", gmm__estimate_thresholds[t] },
			{ "mappings", threshold->mappings },
			{ "most_mappings", threshold->most_mappings },
			{ "run_pages", threshold->run_pages },
			{ "pool_pages", threshold->pool_pages },
			{ "saved_pages", threshold->saved_pages },
			{ "saved_bytes", threshold->saved_pages * IMAGE_PAGE_BYTES },
		};

		ok = put_fields(append_object(array), fields, COUNT(fields));
	}
	return array && ok;
}

int gmm__estimate_print_json(const struct gmm__estimate *e, const struct gmm__image *images, FILE *out)
{
	json_t *root = json_object();
	bool ok = put_totals(root, e) && put_images(root, e, images) && put_pairs(root, e) &&
		  put_runs(root, e) && put_thresholds(root, e);

	if (ok) {
		/* A failing stream is the caller's to notice; that is why the result is not looked at. */
		json_dumpf(root, out, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
		fputc('\n', out);
	}
	json_decref(root);
	return ok ? 0 : -1;
}
