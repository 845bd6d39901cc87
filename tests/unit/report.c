/* Reports of guests: what is written is what is delivered, however the stream is cut; and whatever is wrong with it is
 * named, delivers nothing, and is over with the next HELLO. */
#include "sharedmod/report.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "gmm/sys/sys.h"
#include "sharedmod/report_write.h"
#include "tests/unit/support/unit.h"

enum { GFN_END = 0x10000, LOG = 4096, HEAD = sizeof(struct gmm__report_header) };

static struct gmm__mem mem;
static struct gmm__report_limits limits;
static struct gmm__report_parser *parser;
static struct gmm__report_writer writer;
static char said[LOG]; /* what the sink was told, one character for each call */
static uint64_t run_sum;
static enum gmm__report_fault fault;
static struct gmm__report_module last;
static char last_name[128], last_version[48];

static void say(char what)
{
	size_t length = strlen(said);

	ck_assert_uint_lt(length + 1, LOG);
	said[length] = what;
}

static void on_start(void *arg, const struct gmm__report_hello *hello)
{
	ck_assert_ptr_eq(arg, &mem);
	ck_assert_uint_eq(hello->session, 77);
	say('S');
}

static void on_add(void *arg, const struct gmm__report_module *module)
{
	ck_assert_ptr_eq(arg, &mem);
	say('A');
	last = *module;
	strcpy(last_name, module->name);
	strcpy(last_version, module->version);
	for (uint32_t i = 0; i < module->n_regions; i++)
		for (uint32_t j = 0; j < module->regions[i].n_runs; j++)
			run_sum = run_sum * 31 + module->regions[i].runs[j].gfn * 7 +
				  module->regions[i].runs[j].count * 3 + module->regions[i].runs[j].page;
}

static void on_remove(void *arg, uint32_t id)
{
	ck_assert_ptr_eq(arg, &mem);
	say((char)('0' + id % 10));
}

static void on_done(void *arg)
{
	ck_assert_ptr_eq(arg, &mem);
	say('D');
}

static void on_fault(void *arg, enum gmm__report_fault what)
{
	ck_assert_ptr_eq(arg, &mem);
	fault = what;
	say('F');
}

static void fresh(void)
{
	const struct gmm__report_sink sink = { &mem, on_start, on_add, on_remove, on_done, on_fault };

	gmm__report_free(parser);
	mem.sys = gmm__sys_linux();
	parser = gmm__report_create(&mem, &limits, &sink);
	ck_assert_ptr_nonnull(parser);
	memset(said, 0, sizeof said);
	fault = GMM__REPORT_FINE;
	run_sum = 0;
}

static void setup(void)
{
	gmm__report_limits_init(&limits, GFN_END);
	fresh();
}

static void feed_bytes(const void *bytes, size_t size)
{
	ck_assert_uint_eq(gmm__report_feed(parser, 0, bytes, size), size);
}

static void feed(void)
{
	feed_bytes(writer.frame, writer.bytes);
}

static const struct gmm__report_run runs[] = { { 0, 4, 100 }, { 4, 1, 90 }, { 9, 3, 200 } };

/* A module of one region of 12 pages that tests bend. */
static struct gmm__report_write_region region;
static struct gmm__report_write_module module;

static void simple_module(uint32_t id)
{
	region = (struct gmm__report_write_region){ 0, 12 * 4096, runs, 3 };
	module = (struct gmm__report_write_module){
		.id = id, .kind = GMM__REPORT_FILE, .name = "/lib/x.so", .version = "0123456789abcde",
		.size_bytes = 12 * 4096 - 5, .n_regions = 1, .regions = &region,
	};
}

static void hello(void)
{
	gmm__report_write_hello(&writer, 77);
	feed();
}

static void add_only(void)
{
	gmm__report_write_begin(&writer);
	ck_assert(gmm__report_write_add(&writer, &module));
	gmm__report_write_end(&writer);
}

/* Sends the module as it is now in a new session. */
static enum gmm__report_fault fault_of_module(void)
{
	fresh();
	hello();
	add_only();
	feed();
	ck_assert_str_eq(said, fault ? "SF" : "SA");
	return fault;
}

static struct gmm__report_header *header(void)
{
	return (void *)writer.frame;
}

static void rehash(void)
{
	header()->payload_bytes = (uint32_t)(writer.bytes - HEAD);
	header()->payload_hash = XXH32(writer.frame + HEAD, writer.bytes - HEAD, 0);
	header()->header_hash = XXH32(header(), offsetof(struct gmm__report_header, header_hash), 0);
}

START_TEST(delivers)
{
	setup();
	hello();
	simple_module(5);
	add_only();
	feed();
	ck_assert_str_eq(said, "SA");
	ck_assert_uint_eq(last.id, 5);
	ck_assert_int_eq(last.kind, GMM__REPORT_FILE);
	ck_assert_str_eq(last_name, "/lib/x.so");
	ck_assert_str_eq(last_version, "0123456789abcde");
	ck_assert_uint_eq(last.size_bytes, 12 * 4096 - 5);
	ck_assert_uint_eq(last.n_regions, 1);
	ck_assert_uint_eq(last.regions[0].n_runs, 3);
	ck_assert_uint_eq(run_sum, ((100 * 7 + 12) * 31ull + 90 * 7 + 3 + 4) * 31 + 200 * 7 + 9 + 9);
	gmm__report_write_done(&writer, 1);
	feed();
	gmm__report_write_begin(&writer);
	ck_assert(gmm__report_write_is_empty(&writer));
	ck_assert(gmm__report_write_remove(&writer, 5));
	ck_assert(gmm__report_write_add(&writer, &module));
	gmm__report_write_end(&writer);
	feed();
	gmm__report_write_done(&writer, 1);
	feed();
	ck_assert_str_eq(said, "SAD5AD");
}
END_TEST

/* Three regions, an empty version, a region without pages. */
START_TEST(regions)
{
	struct gmm__report_write_region three[] = {
		{ 0, 8192, runs, 0 }, { 8192, 12 * 4096, runs, 3 }, { 1 << 20, 4096, &(struct gmm__report_run){ 0, 1, 7 }, 1 },
	};

	setup();
	simple_module(2047);
	module.kind = GMM__REPORT_KERNEL;
	module.version = "";
	module.size_bytes = (1 << 20) + 1;
	module.n_regions = 3;
	module.regions = three;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_FINE);
	ck_assert_uint_eq(last.n_regions, 3);
	ck_assert_uint_eq(last.regions[0].n_runs, 0);
	ck_assert_uint_eq(last.regions[1].offset_bytes, 8192);
	ck_assert_uint_eq(last.regions[2].n_runs, 1);
	ck_assert_str_eq(last_version, "");
}
END_TEST

/* A stream of some frames, and where each ends. */
static uint8_t stream[4 * sizeof writer.frame];
static size_t stream_bytes;

static void make_stream(void)
{
	stream_bytes = 0;
	gmm__report_write_hello(&writer, 77);
	for (uint32_t frame = 0; frame < 4; frame++) {
		memcpy(stream + stream_bytes, writer.frame, writer.bytes);
		stream_bytes += writer.bytes;
		simple_module(frame);
		if (frame < 2)
			add_only();
		else
			gmm__report_write_done(&writer, 2);
	}
}

START_TEST(cut_anywhere)
{
	setup();
	make_stream();
	for (size_t piece = 1; piece < 100; piece++) {
		fresh();
		for (size_t at = 0; at < stream_bytes; at += piece)
			feed_bytes(stream + at, stream_bytes - at < piece ? stream_bytes - at : piece);
		ck_assert_str_eq(said, "SAAD");
	}
}
END_TEST

/* The guest reboots at any byte of its stream: the new session is followed from its start. */
START_TEST(reboot_anywhere)
{
	static uint8_t filler[sizeof writer.frame];

	setup();
	make_stream();
	for (size_t cut = 0; cut < stream_bytes; cut++) {
		fresh();
		feed_bytes(stream, cut);
		memset(said, 0, sizeof said);
		feed_bytes(stream, stream_bytes);
		/* A header that was cut may have promised more than came; it is found out when that much has come. */
		if (!strstr(said, "SAAD"))
			feed_bytes(filler, sizeof filler);
		ck_assert_msg(strstr(said, "SAAD"), "cut at %zu: %s", cut, said);
	}
}
END_TEST

/* One bit changes anywhere: nothing of that frame is delivered, and a later session works. */
START_TEST(any_bit_flipped)
{
	static uint8_t filler[sizeof writer.frame];
	size_t hello_bytes = HEAD + sizeof(struct gmm__report_hello);

	setup();
	make_stream();
	for (size_t bit = hello_bytes * 8; bit < stream_bytes * 8; bit++) {
		fresh();
		stream[bit / 8] ^= (uint8_t)(1u << bit % 8);
		feed_bytes(stream, stream_bytes);
		stream[bit / 8] ^= (uint8_t)(1u << bit % 8);
		feed_bytes(filler, sizeof filler);
		ck_assert_msg(strchr(said, 'F') && !strchr(said, 'D') && fault == GMM__REPORT_NOT_A_FRAME, "bit %zu: %s",
			      bit, said);
		memset(said, 0, sizeof said);
		feed_bytes(stream, stream_bytes);
		ck_assert_str_eq(said, "SAAD");
	}
}
END_TEST

START_TEST(sequence)
{
	setup();
	simple_module(1);
	add_only(); /* before any HELLO: not listened to */
	feed();
	gmm__report_write_done(&writer, 0);
	feed();
	ck_assert_str_eq(said, "");
	hello();
	writer.sequence++;
	gmm__report_write_done(&writer, 0);
	feed();
	ck_assert_str_eq(said, "SF");
	ck_assert_int_eq(fault, GMM__REPORT_BAD_SEQUENCE);
	gmm__report_write_done(&writer, 0);
	feed();
	ck_assert_str_eq(said, "SF");
	hello();
	gmm__report_restart(parser);
	gmm__report_write_done(&writer, 0);
	feed();
	hello();
	gmm__report_write_done(&writer, 0);
	feed();
	ck_assert_str_eq(said, "SFSSD");
}
END_TEST

static enum gmm__report_fault fault_of_frame(void)
{
	fault = GMM__REPORT_FINE;
	feed();
	return fault;
}

START_TEST(bad_headers)
{
	static const struct {
		uint16_t version, type;
		uint32_t payload, reserved;
		enum gmm__report_fault fault;

	} cases[] = {
		{ 2, GMM__REPORT_DONE, 8, 0, GMM__REPORT_BAD_VERSION },
		{ 1, 0, 8, 0, GMM__REPORT_BAD_TYPE },
		{ 1, 4, 8, 0, GMM__REPORT_BAD_TYPE },
		{ 1, GMM__REPORT_REQUEST, 8, 0, GMM__REPORT_BAD_TYPE },
		{ 1, GMM__REPORT_DONE, 8, 1, GMM__REPORT_NOT_A_FRAME },
		{ 1, GMM__REPORT_DONE, GMM__REPORT_PAYLOAD_MAX + 8, 0, GMM__REPORT_BAD_LENGTH },
		{ 1, GMM__REPORT_DONE, 0xfffffff8, 0, GMM__REPORT_BAD_LENGTH },
		{ 1, GMM__REPORT_DONE, 4, 0, GMM__REPORT_BAD_LENGTH },
	};

	setup();
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		fresh();
		hello();
		gmm__report_write_done(&writer, 0);
		header()->version = cases[i].version;
		header()->type = cases[i].type;
		header()->payload_bytes = cases[i].payload;
		header()->reserved = cases[i].reserved;
		header()->header_hash = XXH32(header(), offsetof(struct gmm__report_header, header_hash), 0);
		ck_assert_int_eq(fault_of_frame(), cases[i].fault);
		ck_assert_str_eq(said, "SF");
	}
}
END_TEST

START_TEST(bad_hello_and_done)
{
	setup();
	hello();
	gmm__report_write_hello(&writer, 77);
	((struct gmm__report_hello *)(void *)(writer.frame + HEAD))->page_bytes = 16384;
	rehash();
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_HELLO);
	hello();
	gmm__report_write_hello(&writer, 77);
	writer.bytes -= 8;
	rehash();
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_LENGTH);
	hello();
	gmm__report_write_done(&writer, 1);
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_COUNT);
	hello();
	gmm__report_write_done(&writer, 0);
	writer.bytes += 8;
	rehash();
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_LENGTH);
	ck_assert_str_eq(said, "SFSFSFSF");
}
END_TEST

START_TEST(bad_ids)
{
	setup();
	simple_module(GMM__REPORT_MODULES_MAX);
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_ID);
	simple_module(3);
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_FINE);
	add_only();
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_ID);
	hello();
	gmm__report_write_begin(&writer);
	gmm__report_write_remove(&writer, 3); /* was forgotten with the session */
	gmm__report_write_end(&writer);
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_ID);
	/* A frame is taken as a whole or not at all. */
	hello();
	gmm__report_write_begin(&writer);
	ck_assert(gmm__report_write_add(&writer, &module));
	ck_assert(gmm__report_write_remove(&writer, 4));
	gmm__report_write_end(&writer);
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_ID);
	ck_assert_str_eq(said, "SAFSFSF");
}
END_TEST

START_TEST(bad_names)
{
	static char name[200];

	setup();
	simple_module(0);
	memset(name, 'x', sizeof name - 1);
	name[GMM__REPORT_NAME_MAX] = 0;
	module.name = name;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_FINE);
	ck_assert_str_eq(last_name, name);
	name[GMM__REPORT_NAME_MAX] = 'x';
	name[GMM__REPORT_NAME_MAX + 1] = 0;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_NAME);
	module.name = "";
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_NAME);
	module.name = "/lib/\n";
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_NAME);
	module.name = "\x7f";
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_NAME);
	module.name = "/lib/\xc3\xa4";
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_FINE);
	module.version = "0123456789abcdef";
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_NAME);
	module.version = "\033[2J";
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_NAME);
	/* A 0 that ends a name early, and something behind the names. */
	simple_module(0);
	fresh();
	hello();
	add_only();
	writer.frame[HEAD + 32 + 3] = 0;
	rehash();
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_NAME);
	hello();
	add_only();
	writer.frame[HEAD + 32 + 31] = 'x';
	rehash();
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_BAD_NAME);
}
END_TEST

static enum gmm__report_fault fault_of_region(uint64_t offset, uint64_t bytes, uint64_t file_bytes)
{
	simple_module(0);
	region.offset_bytes = offset;
	region.size_bytes = bytes;
	region.n_runs = 0;
	module.size_bytes = file_bytes;
	return fault_of_module();
}

START_TEST(bad_regions)
{
	setup();
	ck_assert_int_eq(fault_of_region(0, 1 << 30, 1 << 30), GMM__REPORT_FINE);
	ck_assert_int_eq(fault_of_region(0, 4096, 1), GMM__REPORT_FINE);
	ck_assert_int_eq(fault_of_region(0, 4096, 0), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(0, 8192, 4096), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(0, 0, 4096), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(1, 4096, 1 << 20), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(0, 4097, 1 << 20), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(0, (1 << 30) + 4096, 1ull << 40), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(~0ull << 12, 4096, 1 << 20), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(0, ~0ull << 12, 1 << 20), GMM__REPORT_BAD_REGION);
	ck_assert_int_eq(fault_of_region(0, 4096, ~0ull), GMM__REPORT_BAD_RECORD);

	struct gmm__report_write_region two[] = { { 0, 8192, runs, 0 }, { 4096, 8192, runs, 0 } };
	simple_module(0);
	module.n_regions = 2;
	module.regions = two;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_REGION); /* overlap */
	two[1].offset_bytes = 8192;
	module.size_bytes = 4 << 20;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_FINE);
	module.size_bytes = 4ull << 30;
	two[1].size_bytes = 1 << 30; /* together too large */
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_REGION);

	static struct gmm__report_write_region many[GMM__REPORT_REGIONS_MAX + 1];
	for (uint32_t i = 0; i <= GMM__REPORT_REGIONS_MAX; i++)
		many[i] = (struct gmm__report_write_region){ i * 4096, 4096, runs, 0 };
	simple_module(0);
	module.size_bytes = 1 << 20;
	module.regions = many;
	module.n_regions = GMM__REPORT_REGIONS_MAX;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_FINE);
	module.n_regions++;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_RECORD);
	module.n_regions = 0;
	ck_assert_int_eq(fault_of_module(), GMM__REPORT_BAD_RECORD);
}
END_TEST

static enum gmm__report_fault fault_of_runs(struct gmm__report_run a, struct gmm__report_run b)
{
	const struct gmm__report_run both[] = { a, b };

	simple_module(0);
	region.runs = both;
	region.n_runs = 2;
	return fault_of_module();
}

#define RUN(page, count, gfn) ((struct gmm__report_run){ page, count, gfn })

START_TEST(bad_runs)
{
	setup();
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(11, 1, GFN_END - 1)), GMM__REPORT_FINE);
	ck_assert_int_eq(fault_of_runs(RUN(0, 0, 5), RUN(11, 1, 6)), GMM__REPORT_BAD_RUN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(11, 2, 6)), GMM__REPORT_BAD_RUN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(1, ~0u, 6)), GMM__REPORT_BAD_RUN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(~0u, 1, 6)), GMM__REPORT_BAD_RUN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 3, 5), RUN(2, 1, 9)), GMM__REPORT_BAD_RUN);
	ck_assert_int_eq(fault_of_runs(RUN(5, 1, 5), RUN(2, 1, 9)), GMM__REPORT_BAD_RUN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(1, 1, GFN_END)), GMM__REPORT_BAD_GFN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(1, 2, GFN_END - 1)), GMM__REPORT_BAD_GFN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 1, 5), RUN(1, 2, ~0ull)), GMM__REPORT_BAD_GFN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 3, 5), RUN(3, 2, 7)), GMM__REPORT_BAD_GFN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 3, 5), RUN(3, 2, 4)), GMM__REPORT_BAD_GFN);
	ck_assert_int_eq(fault_of_runs(RUN(0, 3, 5), RUN(3, 2, 8)), GMM__REPORT_FINE);
	ck_assert_int_eq(fault_of_runs(RUN(0, 3, 5), RUN(3, 2, 3)), GMM__REPORT_FINE);
}
END_TEST

/* Records whose lengths, counts or kinds do not fit together. */
START_TEST(bad_records)
{
	static const struct {
		size_t at;
		uint32_t value;
		enum gmm__report_fault fault;

	} cases[] = {
		{ 0, 8, GMM__REPORT_BAD_LENGTH },      /* bytes */
		{ 0, 0, GMM__REPORT_BAD_LENGTH },
		{ 0, 16, GMM__REPORT_BAD_LENGTH },
		{ 0, 24, GMM__REPORT_BAD_LENGTH },
		{ 0, 0xfffffff8, GMM__REPORT_BAD_LENGTH },
		{ 4, 0, GMM__REPORT_BAD_RECORD },      /* kind */
		{ 4, 3, GMM__REPORT_BAD_RECORD },
		{ 4, GMM__REPORT_REMOVE, GMM__REPORT_BAD_LENGTH },
		{ 12, 1, GMM__REPORT_BAD_RECORD },     /* reserved */
		{ 24, 0x010f0900, GMM__REPORT_BAD_RECORD }, /* regions, version, name, kind 0 */
		{ 24, 0x010f0904, GMM__REPORT_BAD_RECORD },
		{ 24, 0x010fff03, GMM__REPORT_BAD_LENGTH },
		{ 24, 0xff0f0903, GMM__REPORT_BAD_LENGTH },
		{ 24, 0x000f0903, GMM__REPORT_BAD_LENGTH },
		{ 28, 1, GMM__REPORT_BAD_RECORD },     /* reserved */
		{ 64 + 16, 2, GMM__REPORT_BAD_LENGTH }, /* runs of the region */
		{ 64 + 16, 4, GMM__REPORT_BAD_LENGTH },
		{ 64 + 16, ~0u, GMM__REPORT_BAD_LENGTH },
		{ 64 + 20, 1, GMM__REPORT_BAD_REGION }, /* reserved */
	};

	setup();
	simple_module(0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		fresh();
		hello();
		add_only();
		memcpy(writer.frame + HEAD + cases[i].at, &cases[i].value, 4);
		rehash();
		ck_assert_msg(fault_of_frame() == cases[i].fault, "case %zu: %s", i, gmm__report_fault_name(fault));
	}
}
END_TEST

START_TEST(budgets)
{
	setup();
	limits.max_runs = 7;
	fresh();
	hello();
	for (uint32_t id = 0; id < 3; id++) {
		simple_module(id); /* 3 runs each */
		add_only();
		feed();
	}
	ck_assert_str_eq(said, "SAAF");
	ck_assert_int_eq(fault, GMM__REPORT_TOO_MANY_RUNS);

	gmm__report_limits_init(&limits, GFN_END);
	limits.max_pages = 17; /* 8 each */
	fresh();
	hello();
	for (uint32_t id = 0; id < 3; id++) {
		simple_module(id);
		add_only();
		feed();
		if (id == 1) { /* room again */
			gmm__report_write_begin(&writer);
			gmm__report_write_remove(&writer, 0);
			gmm__report_write_end(&writer);
			feed();
		}
	}
	ck_assert_str_eq(said, "SAA0A");
	simple_module(9);
	add_only();
	feed();
	ck_assert_int_eq(fault, GMM__REPORT_TOO_MANY_PAGES);

	/* The same pages again and again in one frame. */
	fresh();
	hello();
	gmm__report_write_begin(&writer);
	for (int i = 0; i < 3; i++) {
		simple_module(0);
		ck_assert(gmm__report_write_add(&writer, &module));
		ck_assert(gmm__report_write_remove(&writer, 0));
	}
	gmm__report_write_end(&writer);
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_TOO_MANY_PAGES);
	ck_assert_str_eq(said, "SF");
}
END_TEST

/* A guest that sends without end is slowed down to its credit, in frames that are right and in noise. */
START_TEST(credit)
{
	static uint8_t noise[1 << 16];
	uint64_t taken = 0, now = 0;

	setup();
	limits.burst_credit = 1 << 20;
	limits.credit_per_s = 1 << 10;
	fresh();
	memset(noise, GMM__REPORT_MAGIC[0] & 0xff, sizeof noise);
	for (int i = 0; i < 1000; i++)
		taken += gmm__report_feed(parser, now, noise, sizeof noise);
	ck_assert_uint_le(taken, 1 << 20);
	ck_assert_uint_ge(taken, 1 << 16);
	ck_assert_uint_gt(gmm__report_wait_ns(parser, now), 0);
	now += gmm__report_wait_ns(parser, now);
	ck_assert_uint_eq(gmm__report_wait_ns(parser, now), 0);
	taken = gmm__report_feed(parser, now, noise, sizeof noise);
	ck_assert_uint_gt(taken, 0);
	ck_assert_uint_lt(taken, 4096);
	/* Small steps of time add up. */
	now += gmm__report_wait_ns(parser, now);
	for (int i = 0; i < 3000; i++)
		gmm__report_feed(parser, now += 1000000, noise, 1);
	ck_assert_uint_eq(gmm__report_wait_ns(parser, now + 1000000000), 0);

	/* Pages cost more than the bytes that name them. */
	gmm__report_limits_init(&limits, 1 << 18);
	limits.burst_credit = 1 << 20;
	fresh();
	hello();
	simple_module(0);
	region = (struct gmm__report_write_region){ 0, 1 << 30, &RUN(0, 1 << 18, 0), 1 };
	module.size_bytes = 1 << 30;
	add_only();
	feed();
	ck_assert_str_eq(said, "SA");
	ck_assert_uint_gt(gmm__report_wait_ns(parser, 0), 1000000000);
	ck_assert_uint_eq(gmm__report_feed(parser, 0, noise, 1), 0);
}
END_TEST

/* The largest frame, completely filled. */
START_TEST(full_frame)
{
	uint32_t id = 0;

	setup();
	simple_module(0);
	hello();
	gmm__report_write_begin(&writer);
	for (; id < GMM__REPORT_MODULES_MAX; id++) {
		module.id = id;
		if (!gmm__report_write_add(&writer, &module))
			break;
	}
	size_t bytes = writer.bytes;
	ck_assert_uint_gt(bytes, sizeof writer.frame - 200);
	ck_assert(!gmm__report_write_add(&writer, &module));
	ck_assert_uint_eq(writer.bytes, bytes);
	gmm__report_write_end(&writer);
	feed();
	ck_assert_uint_eq(strlen(said), id + 1);
	gmm__report_write_done(&writer, id);
	ck_assert_int_eq(fault_of_frame(), GMM__REPORT_FINE);
}
END_TEST

START_TEST(names_and_memory)
{
	setup();
	for (int i = 0; i < GMM__REPORT_FAULTS; i++)
		ck_assert_str_ne(gmm__report_fault_name((enum gmm__report_fault)i), "unknown");
	ck_assert_str_eq(gmm__report_fault_name(GMM__REPORT_FAULTS), "unknown");
	ck_assert_uint_lt(mem.bytes, 350 << 10);
	gmm__report_free(parser);
	gmm__report_free(NULL);
	ck_assert_uint_eq(mem.bytes, 0);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		delivers, regions, cut_anywhere, reboot_anywhere, any_bit_flipped, sequence, bad_headers,
		bad_hello_and_done, bad_ids, bad_names, bad_regions, bad_runs, bad_records, budgets, credit, full_frame,
		names_and_memory,
	};

	return unit_main("report", tests, sizeof tests / sizeof *tests);
}
