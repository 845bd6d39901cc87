/* The writer of report frames; see report_write.h. */
#include "sharedmod/report_write.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { HEADER_BYTES = sizeof(struct gmm__report_header) };

static void append(struct gmm__report_writer *writer, const void *bytes, size_t size)
{
	if (size > 0) /* the pointer may be null then */
		memcpy(writer->frame + writer->bytes, bytes, size);
	writer->bytes += size;
}

static void finish(struct gmm__report_writer *writer, enum gmm__report_type type)
{
	struct gmm__report_header header = {
		.version = GMM__REPORT_VERSION,
		.type = (uint16_t)type,
		.payload_bytes = (uint32_t)(writer->bytes - HEADER_BYTES),
		.sequence = writer->sequence++,
		.payload_hash = XXH32(writer->frame + HEADER_BYTES, writer->bytes - HEADER_BYTES, 0),
	};

	memcpy(header.magic, GMM__REPORT_MAGIC, GMM__REPORT_MAGIC_BYTES);
	header.header_hash = XXH32(&header, offsetof(struct gmm__report_header, header_hash), 0);
	memcpy(writer->frame, &header, sizeof header);
}

void gmm__report_write_begin(struct gmm__report_writer *writer)
{
	writer->bytes = HEADER_BYTES;
}

bool gmm__report_write_is_empty(const struct gmm__report_writer *writer)
{
	return writer->bytes == HEADER_BYTES;
}

void gmm__report_write_end(struct gmm__report_writer *writer)
{
	finish(writer, GMM__REPORT_CHANGES);
}

void gmm__report_write_hello(struct gmm__report_writer *writer, uint64_t session)
{
	const struct gmm__report_hello hello = {
		.session = session,
		.page_bytes = GMM__REPORT_PAGE_BYTES,
		.os = GMM__REPORT_OS_LINUX,
	};

	writer->sequence = 0;
	gmm__report_write_begin(writer);
	append(writer, &hello, sizeof hello);
	finish(writer, GMM__REPORT_HELLO);
}

void gmm__report_write_done(struct gmm__report_writer *writer, uint32_t modules)
{
	const struct gmm__report_done done = { .modules = modules };

	gmm__report_write_begin(writer);
	append(writer, &done, sizeof done);
	finish(writer, GMM__REPORT_DONE);
}

void gmm__report_write_request(struct gmm__report_writer *writer, enum gmm__report_want want)
{
	const struct gmm__report_request request = { .want = want };

	gmm__report_write_begin(writer);
	append(writer, &request, sizeof request);
	finish(writer, GMM__REPORT_REQUEST);
}

static bool fits(const struct gmm__report_writer *writer, size_t bytes)
{
	return bytes <= sizeof writer->frame - writer->bytes;
}

bool gmm__report_write_remove(struct gmm__report_writer *writer, uint32_t id)
{
	const struct gmm__report_record record = { .bytes = sizeof record, .kind = GMM__REPORT_REMOVE, .id = id };

	if (!fits(writer, sizeof record))
		return false;
	append(writer, &record, sizeof record);
	return true;
}

bool gmm__report_write_add(struct gmm__report_writer *writer, const struct gmm__report_write_module *module)
{
	size_t name = strlen(module->name), version = strlen(module->version);
	size_t text = (name + version + 2 + 7) & ~(size_t)7, runs = 0;
	struct gmm__report_record record = { .kind = GMM__REPORT_ADD, .id = module->id };
	const struct gmm__report_add add = {
		.size_bytes = module->size_bytes,
		.kind = (uint8_t)module->kind,
		.name_bytes = (uint8_t)name,
		.version_bytes = (uint8_t)version,
		.regions = (uint8_t)module->n_regions,
	};

	for (uint32_t i = 0; i < module->n_regions; i++)
		runs += module->regions[i].n_runs;
	record.bytes = (uint32_t)(sizeof record + sizeof add + text +
				  module->n_regions * sizeof(struct gmm__report_region) +
				  runs * sizeof(struct gmm__report_run));
	if (!fits(writer, record.bytes))
		return false;
	append(writer, &record, sizeof record);
	append(writer, &add, sizeof add);
	memset(writer->frame + writer->bytes, 0, text);
	memcpy(writer->frame + writer->bytes, module->name, name);
	memcpy(writer->frame + writer->bytes + name + 1, module->version, version);
	writer->bytes += text;
	for (uint32_t i = 0; i < module->n_regions; i++) {
		const struct gmm__report_region region = {
			.offset_bytes = module->regions[i].offset_bytes,
			.size_bytes = module->regions[i].size_bytes,
			.runs = module->regions[i].n_runs,
		};
		append(writer, &region, sizeof region);
	}
	for (uint32_t i = 0; i < module->n_regions; i++)
		append(writer, module->regions[i].runs, module->regions[i].n_runs * sizeof(struct gmm__report_run));
	return true;
}
