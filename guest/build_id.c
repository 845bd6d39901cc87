/* Reads ELF headers and notes; see build_id.h. Files may say anything: every number is checked against what is there. */
#include "guest/build_id.h"

#include <elf.h>
#include <stdio.h>
#include <string.h>

static size_t round_up_4(size_t bytes)
{
	return (bytes + 3) & ~(size_t)3;
}

static void print_hex(const uint8_t *id, size_t bytes, char *ret_text, size_t text_size)
{
	static const char digits[] = "0123456789abcdef";
	size_t length = 2 * bytes < text_size - 1 ? 2 * bytes : text_size - 1;

	for (size_t i = 0; i < length; i++)
		ret_text[i] = digits[i % 2 ? id[i / 2] & 15 : id[i / 2] >> 4];
	ret_text[length] = 0;
}

bool build_id_of_notes(const void *notes, size_t bytes, char *ret_text, size_t text_size)
{
	const uint8_t *at = notes;

	while (bytes >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr note;
		memcpy(&note, at, sizeof note);
		at += sizeof note;
		bytes -= sizeof note;
		if (note.n_namesz > bytes || round_up_4(note.n_namesz) > bytes)
			return false;
		size_t name = round_up_4(note.n_namesz);
		if (note.n_descsz > bytes - name)
			return false;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(at, "GNU", 4) == 0 &&
		    note.n_descsz > 0) {
			print_hex(at + name, note.n_descsz, ret_text, text_size);
			return true;
		}
		if (round_up_4(note.n_descsz) > bytes - name)
			return false;
		at += name + round_up_4(note.n_descsz);
		bytes -= name + round_up_4(note.n_descsz);
	}
	return false;
}

size_t build_id_find_notes(const void *head, size_t bytes, struct notes_range *ret_ranges, size_t max)
{
	Elf64_Ehdr elf;
	size_t count = 0;

	if (bytes < sizeof elf)
		return 0;
	memcpy(&elf, head, sizeof elf);
	if (memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_ident[EI_CLASS] != ELFCLASS64 ||
	    elf.e_ident[EI_DATA] != ELFDATA2LSB || elf.e_phentsize != sizeof(Elf64_Phdr))
		return 0;
	for (size_t i = 0; i < elf.e_phnum && count < max; i++) {
		Elf64_Phdr segment;
		size_t offset = i * sizeof segment;
		if (elf.e_phoff > bytes || offset + sizeof segment > bytes - elf.e_phoff)
			break;
		memcpy(&segment, (const char *)head + elf.e_phoff + offset, sizeof segment);
		if (segment.p_type == PT_NOTE)
			ret_ranges[count++] = (struct notes_range){ segment.p_offset, segment.p_filesz };
	}
	return count;
}
