/* A stream as a hostile guest might send it. What is delivered must be inside the limits, the memory used must not depend on
 * the input, and the parser must come to an end with every byte or run out of credit.
 *
 * Hashes are put right first, since a fuzzer cannot guess them: the input is a row of pieces, a 16-bit length and that many
 * bytes. Where a piece has room for a header it is made a frame if its first byte is even; else it is sent as it is. */
#include "sharedmod/report.h"

#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "gmm/sys/sys.h"
#include "tests/fuzz/fuzz.h"

enum { GFN_END = 4096, HEAD = sizeof(struct gmm__report_header) };

static struct {
	bool used[GMM__REPORT_MODULES_MAX];
	uint32_t pages[GMM__REPORT_MODULES_MAX];
	uint64_t all_pages;
	uint32_t modules;
	bool in_session;
} world;

static void on_start(void *arg, const struct gmm__report_hello *hello)
{
	(void)arg;
	fuzz_check(hello->page_bytes == 4096);
	memset(&world, 0, sizeof world);
	world.in_session = true;
}

static void on_add(void *arg, const struct gmm__report_module *module)
{
	uint32_t pages = 0;

	(void)arg;
	fuzz_check(world.in_session && module->id < GMM__REPORT_MODULES_MAX && !world.used[module->id]);
	fuzz_check(strlen(module->name) > 0 && strlen(module->name) <= GMM__REPORT_NAME_MAX);
	fuzz_check(strlen(module->version) <= GMM__REPORT_VERSION_MAX);
	fuzz_check(module->n_regions > 0 && module->n_regions <= GMM__REPORT_REGIONS_MAX);
	for (uint32_t i = 0; i < module->n_regions; i++) {
		const struct gmm__report_module_region *region = &module->regions[i];
		uint64_t next = 0;
		for (uint32_t j = 0; j < region->n_runs; j++) {
			const struct gmm__report_run *run = &region->runs[j];
			fuzz_check(run->page >= next && run->count > 0);
			next = (uint64_t)run->page + run->count;
			fuzz_check(next * 4096 <= region->size_bytes);
			fuzz_check(run->gfn < GFN_END && run->gfn + run->count <= GFN_END);
			pages += run->count;
		}
	}
	world.used[module->id] = true;
	world.pages[module->id] = pages;
	world.all_pages += pages;
	world.modules++;
}

static void on_remove(void *arg, uint32_t id)
{
	(void)arg;
	fuzz_check(world.in_session && id < GMM__REPORT_MODULES_MAX && world.used[id]);
	world.used[id] = false;
	world.all_pages -= world.pages[id];
	world.modules--;
}

static void on_done(void *arg)
{
	(void)arg;
	fuzz_check(world.in_session && world.all_pages <= GFN_END);
}

static void on_fault(void *arg, enum gmm__report_fault fault)
{
	(void)arg;
	fuzz_check(world.in_session && fault > GMM__REPORT_FINE && fault < GMM__REPORT_FAULTS);
	world.in_session = false;
}

static void make_frame(uint8_t *bytes, size_t size, uint32_t *sequence)
{
	struct gmm__report_header header;

	memcpy(&header, bytes, sizeof header);
	memcpy(header.magic, GMM__REPORT_MAGIC, GMM__REPORT_MAGIC_BYTES);
	header.version = header.version % 16 == 15 ? header.version : GMM__REPORT_VERSION;
	header.type = header.type % 16 == 15 ? header.type : header.type % 3 + 1;
	header.payload_bytes = header.payload_bytes % 16 == 15 ? header.payload_bytes : (uint32_t)(size - HEAD);
	if (header.type == GMM__REPORT_HELLO)
		*sequence = 0;
	header.sequence = header.sequence % 16 == 15 ? header.sequence : (*sequence)++;
	header.reserved = 0;
	header.payload_hash = XXH32(bytes + HEAD, size - HEAD, 0);
	header.header_hash = XXH32(&header, offsetof(struct gmm__report_header, header_hash), 0);
	memcpy(bytes, &header, sizeof header);
}

static void feed_pieces(struct gmm__report_parser *parser, const uint8_t *data, size_t size)
{
	static uint8_t piece[1 << 16];
	uint32_t sequence = 0;
	uint64_t now_ns = 0;

	while (size >= 2) {
		uint16_t length;
		memcpy(&length, data, 2);
		data += 2;
		size -= 2;
		size_t n = length < size ? length : size, used = 0;
		memcpy(piece, data, n);
		if (n >= HEAD && data[0] % 2 == 0)
			make_frame(piece, n, &sequence);
		while (used < n) {
			now_ns += gmm__report_wait_ns(parser, now_ns);
			fuzz_check(gmm__report_wait_ns(parser, now_ns) == 0);
			used += gmm__report_feed(parser, now_ns, piece + used, n - used);
		}
		data += n;
		size -= n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct gmm__report_sink sink = { NULL, on_start, on_add, on_remove, on_done, on_fault };
	struct gmm__mem mem = { .sys = gmm__sys_linux() };
	struct gmm__report_parser *parser;
	struct gmm__report_limits limits;
	size_t mem_bytes;

	gmm__report_limits_init(&limits, GFN_END);
	limits.burst_credit = 1 << 16;
	parser = gmm__report_create(&mem, &limits, &sink);
	fuzz_check(parser);
	mem_bytes = mem.bytes;
	memset(&world, 0, sizeof world);
	feed_pieces(parser, data, size);
	fuzz_check(mem.bytes == mem_bytes && mem.peak == mem_bytes);
	gmm__report_free(parser);
	fuzz_check(mem.bytes == 0);
	return 0;
}
