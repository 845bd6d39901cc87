/* The parser's state: the frame that is being received, the session, and the guest's credit; see report.h. */
#include "sharedmod/report.h"

#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "sharedmod/report_check.h"

#define NS_PER_S 1000000000ull

enum { HEADER_BYTES = sizeof(struct gmm__report_header) };

/* Invariants: have < HEADER_BYTES while frame_bytes is 0, else have < frame_bytes, whenever gmm__report_feed has returned
 * and there is credit. known is what the sink has been told since `start`. */
struct gmm__report_parser {
	struct gmm__mem *mem;
	struct gmm__report_limits limits;
	struct gmm__report_sink sink;
	uint64_t debt;        /* credit spent and not come back yet */
	uint64_t debt_ns;     /* when it was last reckoned up */
	uint32_t sequence;    /* of the next frame */
	bool in_session;      /* else only HELLO is listened to */
	size_t have;          /* bytes in frame */
	size_t frame_bytes;   /* how long the frame in there will be; 0: its header is not complete */
	struct gmm__report_known known, next_known;
	struct gmm__report_scratch scratch;
	_Alignas(8) uint8_t frame[HEADER_BYTES + GMM__REPORT_PAYLOAD_MAX];
};

void gmm__report_limits_init(struct gmm__report_limits *limits, uint64_t gfn_end)
{
	const uint64_t spare = 8 << 20;

	limits->gfn_end = gfn_end < GMM__REPORT_GFN_MAX ? gfn_end : GMM__REPORT_GFN_MAX;
	limits->max_pages = limits->gfn_end;
	limits->max_runs = limits->gfn_end < 1 << 20 ? (uint32_t)limits->gfn_end : 1 << 20;
	limits->burst_credit = limits->gfn_end * GMM__REPORT_PAGE_COST + spare;
	limits->credit_per_s = limits->burst_credit / 60;
}

struct gmm__report_parser *gmm__report_create(struct gmm__mem *mem, const struct gmm__report_limits *limits,
					      const struct gmm__report_sink *sink)
{
	struct gmm__report_parser *parser = gmm__mem_alloc(mem, sizeof *parser);

	if (!parser)
		return NULL;
	parser->mem = mem;
	parser->limits = *limits;
	parser->sink = *sink;
	return parser;
}

void gmm__report_free(struct gmm__report_parser *parser)
{
	if (parser)
		gmm__mem_free(parser->mem, parser, sizeof *parser);
}

/* ---- credit ----------------------------------------------------------------------------------------------- */

static uint64_t debt_at(const struct gmm__report_parser *parser, uint64_t now_ns)
{
	uint64_t passed = now_ns > parser->debt_ns ? now_ns - parser->debt_ns : 0;
	unsigned __int128 back = (unsigned __int128)passed * parser->limits.credit_per_s / NS_PER_S;

	return back < parser->debt ? parser->debt - (uint64_t)back : 0;
}

static void reckon(struct gmm__report_parser *parser, uint64_t now_ns)
{
	uint64_t debt = debt_at(parser, now_ns);

	/* Time that is too short to bring a unit back is not lost. */
	if (debt == parser->debt && debt > 0)
		return;
	parser->debt = debt;
	parser->debt_ns = now_ns;
}

static bool has_credit(const struct gmm__report_parser *parser)
{
	return parser->debt <= parser->limits.burst_credit;
}

uint64_t gmm__report_wait_ns(const struct gmm__report_parser *parser, uint64_t now_ns)
{
	uint64_t debt = debt_at(parser, now_ns);
	unsigned __int128 wait;

	if (debt <= parser->limits.burst_credit)
		return 0;
	if (parser->limits.credit_per_s == 0)
		return UINT64_MAX;
	wait = (unsigned __int128)(debt - parser->limits.burst_credit) * NS_PER_S / parser->limits.credit_per_s + 1;
	return wait < UINT64_MAX ? (uint64_t)wait : UINT64_MAX;
}

/* ---- frames ----------------------------------------------------------------------------------------------- */

static void drop_bytes(struct gmm__report_parser *parser, size_t bytes)
{
	parser->have -= bytes;
	memmove(parser->frame, parser->frame + bytes, parser->have);
	parser->frame_bytes = 0;
}

/* Goes on where the next frame may begin inside of what is here, behind its first byte. */
static void find_next_frame(struct gmm__report_parser *parser)
{
	size_t at = 1;

	for (; at < parser->have; at++) {
		const uint8_t *found = memchr(parser->frame + at, GMM__REPORT_MAGIC[0] & 0xff, parser->have - at);
		size_t left;

		if (!found) {
			at = parser->have;
			break;
		}
		at = (size_t)(found - parser->frame);
		left = parser->have - at;
		if (memcmp(found, GMM__REPORT_MAGIC, left < GMM__REPORT_MAGIC_BYTES ? left : GMM__REPORT_MAGIC_BYTES) == 0)
			break;
	}
	parser->debt += at;
	drop_bytes(parser, at);
}

static void lose(struct gmm__report_parser *parser, enum gmm__report_fault fault)
{
	bool was_in_session = parser->in_session;

	parser->in_session = false;
	find_next_frame(parser);
	if (!was_in_session)
		return;
	parser->debt += GMM__REPORT_FAULT_COST;
	parser->sink.fault(parser->sink.arg, fault);
}

static enum gmm__report_fault take_hello(struct gmm__report_parser *parser, const void *payload, size_t bytes)
{
	enum gmm__report_fault fault = gmm__report_check_hello(payload, bytes);

	if (fault)
		return fault;
	memset(&parser->known, 0, sizeof parser->known);
	parser->in_session = true;
	parser->sequence = 0;
	parser->sink.start(parser->sink.arg, payload);
	return GMM__REPORT_FINE;
}

static void deliver(const struct gmm__report_sink *sink, const uint8_t *at, size_t bytes)
{
	struct gmm__report_module module;

	while (bytes > 0) {
		const struct gmm__report_record *record = (const void *)at;

		if (record->kind == GMM__REPORT_ADD) {
			gmm__report_unpack(record, &module);
			sink->add(sink->arg, &module);
		} else {
			sink->remove(sink->arg, record->id);
		}
		at += record->bytes;
		bytes -= record->bytes;
	}
}

static enum gmm__report_fault take_changes(struct gmm__report_parser *parser, const uint8_t *payload, size_t bytes)
{
	enum gmm__report_fault fault;
	uint64_t pages;

	parser->next_known = parser->known;
	fault = gmm__report_check_changes(payload, bytes, &parser->limits, &parser->next_known, &parser->scratch, &pages);
	parser->debt += pages * GMM__REPORT_PAGE_COST;
	if (fault)
		return fault;
	parser->known = parser->next_known;
	deliver(&parser->sink, payload, bytes);
	return GMM__REPORT_FINE;
}

static enum gmm__report_fault take_done(struct gmm__report_parser *parser, const struct gmm__report_done *done,
					size_t bytes)
{
	if (bytes != sizeof *done)
		return GMM__REPORT_BAD_LENGTH;
	if (done->modules != parser->known.modules)
		return GMM__REPORT_BAD_COUNT;
	parser->sink.done(parser->sink.arg);
	return GMM__REPORT_FINE;
}

/* A complete frame with a good header. */
static enum gmm__report_fault take_frame(struct gmm__report_parser *parser)
{
	const struct gmm__report_header *header = (const void *)parser->frame;
	const uint8_t *payload = parser->frame + HEADER_BYTES;
	size_t bytes = header->payload_bytes;
	enum gmm__report_fault fault;

	parser->debt += bytes;
	if (XXH32(payload, bytes, 0) != header->payload_hash)
		return GMM__REPORT_NOT_A_FRAME;
	if (header->type != GMM__REPORT_HELLO && !parser->in_session)
		return GMM__REPORT_FINE; /* what is left of a session that was lost */
	if (header->sequence != (header->type == GMM__REPORT_HELLO ? 0 : parser->sequence))
		return GMM__REPORT_BAD_SEQUENCE;
	switch (header->type) {
	case GMM__REPORT_HELLO:
		fault = take_hello(parser, payload, bytes);
		break;
	case GMM__REPORT_CHANGES:
		fault = take_changes(parser, payload, bytes);
		break;
	default:
		fault = take_done(parser, (const void *)payload, bytes);
	}
	if (!fault)
		parser->sequence++;
	return fault;
}

/* One step with the bytes that are here. False: more bytes are needed. */
static bool step(struct gmm__report_parser *parser)
{
	const struct gmm__report_header *header = (const void *)parser->frame;
	enum gmm__report_fault fault = GMM__REPORT_FINE;

	if (parser->have < HEADER_BYTES)
		return false;
	if (parser->frame_bytes == 0) {
		fault = gmm__report_check_header(header);
		if (!fault)
			parser->frame_bytes = HEADER_BYTES + header->payload_bytes;
	}
	if (!fault) {
		if (parser->have < parser->frame_bytes)
			return false;
		fault = take_frame(parser);
	}
	if (fault)
		lose(parser, fault);
	else
		drop_bytes(parser, parser->frame_bytes);
	return true;
}

size_t gmm__report_feed(struct gmm__report_parser *parser, uint64_t now_ns, const void *bytes, size_t size)
{
	size_t used = 0;

	reckon(parser, now_ns);
	while (has_credit(parser)) {
		size_t wanted, n;

		if (step(parser))
			continue;
		if (used == size)
			break;
		wanted = (parser->frame_bytes ? parser->frame_bytes : HEADER_BYTES) - parser->have;
		n = size - used < wanted ? size - used : wanted;
		memcpy(parser->frame + parser->have, (const char *)bytes + used, n);
		parser->have += n;
		parser->debt += n;
		used += n;
	}
	return used;
}

void gmm__report_restart(struct gmm__report_parser *parser)
{
	parser->have = 0;
	parser->frame_bytes = 0;
	parser->in_session = false;
}

const char *gmm__report_fault_name(enum gmm__report_fault fault)
{
	static const char *const names[GMM__REPORT_FAULTS] = {
		[GMM__REPORT_FINE] = "fine",
		[GMM__REPORT_NOT_A_FRAME] = "not a frame",
		[GMM__REPORT_BAD_VERSION] = "unknown version",
		[GMM__REPORT_BAD_TYPE] = "unknown type of frame",
		[GMM__REPORT_BAD_LENGTH] = "wrong length",
		[GMM__REPORT_BAD_SEQUENCE] = "a frame is missing",
		[GMM__REPORT_BAD_HELLO] = "unknown kind of guest",
		[GMM__REPORT_BAD_RECORD] = "bad record",
		[GMM__REPORT_BAD_ID] = "bad module id",
		[GMM__REPORT_BAD_NAME] = "bad name or version",
		[GMM__REPORT_BAD_REGION] = "bad region",
		[GMM__REPORT_BAD_RUN] = "bad run of pages",
		[GMM__REPORT_BAD_GFN] = "page outside the guest's memory or named twice",
		[GMM__REPORT_TOO_MANY_RUNS] = "too many runs",
		[GMM__REPORT_TOO_MANY_PAGES] = "too many pages",
		[GMM__REPORT_BAD_COUNT] = "another number of modules than reported",
	};

	return (unsigned)fault < GMM__REPORT_FAULTS ? names[fault] : "unknown";
}
