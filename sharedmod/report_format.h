/* Reports of a guest: which files it has mapped, and in which of its pages they are. The format of the byte stream between
 * the agent in the guest (guest/) and the host, over a virtio-serial port or a vsock connection; docs/guest-agent.md
 * explains it. Numbers are little endian, and all structures are laid out as here, without padding of the compiler's.
 *
 * The stream is a row of frames: a header and its payload. The guest sends HELLO, which starts a session and forgets
 * everything before it; then CHANGES, as many as it needs; then DONE when the host knows all. Then CHANGES and DONE again,
 * every minute or when the host asks. The host sends REQUEST only.
 */
#ifndef SHAREDMOD_REPORT_FORMAT_H
#define SHAREDMOD_REPORT_FORMAT_H

#include <stdint.h>

/* A terminal in between that changes line ends or strips the eighth bit is noticed at once. */
#define GMM__REPORT_MAGIC "\x89GMM\r\n\x1a\n"

enum {
	GMM__REPORT_VERSION = 1,
	GMM__REPORT_MAGIC_BYTES = 8,
	GMM__REPORT_PAYLOAD_MAX = 128 * 1024,
	GMM__REPORT_MODULES_MAX = 2048, /* ids are below it */
	GMM__REPORT_REGIONS_MAX = 32,   /* of a module */
	GMM__REPORT_NAME_MAX = 127,     /* bytes, without the 0 at the end */
	GMM__REPORT_VERSION_MAX = 15,
	GMM__REPORT_PAGE_BYTES = 4096,
};

#define GMM__REPORT_MODULE_BYTES_MAX (1ull << 30) /* a module's regions together */
#define GMM__REPORT_GFN_MAX (1ull << 40)          /* gfns are below it */

enum gmm__report_type {
	GMM__REPORT_HELLO = 1,    /* struct gmm__report_hello */
	GMM__REPORT_CHANGES = 2,  /* records; each starts with struct gmm__report_record */
	GMM__REPORT_DONE = 3,     /* struct gmm__report_done */
	GMM__REPORT_REQUEST = 16, /* struct gmm__report_request; to the guest */
};

struct gmm__report_header {
	uint8_t magic[GMM__REPORT_MAGIC_BYTES];
	uint16_t version;
	uint16_t type;
	uint32_t payload_bytes; /* a multiple of 8 */
	uint32_t sequence;      /* 0 for HELLO, then one more for each frame of the session */
	uint32_t payload_hash;  /* XXH32 with seed 0 */
	uint32_t reserved;      /* 0 */
	uint32_t header_hash;   /* XXH32 with seed 0, of the header without this field */
};

enum gmm__report_os { GMM__REPORT_OS_LINUX = 1 };

struct gmm__report_hello {
	uint64_t session; /* a random number */
	uint32_t page_bytes;
	uint32_t os;
};

enum gmm__report_record_kind { GMM__REPORT_REMOVE = 1, GMM__REPORT_ADD = 2 };

struct gmm__report_record {
	uint32_t bytes; /* of this record, a multiple of 8 */
	uint32_t kind;
	uint32_t id; /* of a module; the guest's choice. To be added it must be unused, to be removed it must be in use */
	uint32_t reserved;
};

enum gmm__report_module_kind {
	GMM__REPORT_KERNEL = 1,
	GMM__REPORT_KERNEL_MODULE = 2,
	GMM__REPORT_FILE = 3,
	GMM__REPORT_MODULE_KINDS
};

/* Follows an ADD's record. After it come name and version, both ended by a 0 and filled up with zeros to a multiple of 8
 * together; then the regions; then the runs of all regions in the same order. */
struct gmm__report_add {
	uint64_t size_bytes;   /* of the file, or of the kernel's image */
	uint8_t kind;
	uint8_t name_bytes;    /* without the 0 */
	uint8_t version_bytes;
	uint8_t regions;
	uint32_t reserved;
};

struct gmm__report_region {
	uint64_t offset_bytes; /* in the file; page aligned */
	uint64_t size_bytes;   /* page aligned; regions are in order and do not overlap */
	uint32_t runs;
	uint32_t reserved;
};

/* count consecutive pages of a region lie in consecutive gfns. In order of page; no gfn twice in a module. */
struct gmm__report_run {
	uint32_t page; /* of the region */
	uint32_t count;
	uint64_t gfn;
};

struct gmm__report_done {
	uint32_t modules; /* how many the host knows now */
	uint32_t reserved;
};

enum gmm__report_want {
	GMM__REPORT_WANT_CHANGES = 1, /* report now */
	GMM__REPORT_WANT_ALL = 2,     /* start a session: HELLO and everything */
};

struct gmm__report_request {
	uint32_t want;
	uint32_t reserved;
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structures are sent as they are");
_Static_assert(sizeof(struct gmm__report_header) == 32, "no padding");
_Static_assert(sizeof(struct gmm__report_hello) == 16, "no padding");
_Static_assert(sizeof(struct gmm__report_record) == 16, "no padding");
_Static_assert(sizeof(struct gmm__report_add) == 16, "no padding");
_Static_assert(sizeof(struct gmm__report_region) == 24, "no padding");
_Static_assert(sizeof(struct gmm__report_run) == 16, "no padding");

#endif
