/* GNU build ids: what a linker wrote into a program or library to tell one build from all others. */
#ifndef GUEST_BUILD_ID_H
#define GUEST_BUILD_ID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Looks for it among ELF notes and writes its first digits, in hexadecimal. False: it is not there. */
bool build_id_of_notes(const void *notes, size_t bytes, char *ret_text, size_t text_size);

/* Where the notes of an ELF file are, from its first bytes: at most max ranges of the file; 0 if it is no ELF file for 64 bit
 * x86, or has no notes. */
struct notes_range {
	uint64_t offset, bytes;
};
size_t build_id_find_notes(const void *head, size_t bytes, struct notes_range *ret_ranges, size_t max);

#endif
