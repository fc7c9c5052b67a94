/* windows_names.h - removing leftovers. */
#ifndef BSHM_WINDOWS_NAMES_H
#define BSHM_WINDOWS_NAMES_H

#include "windows_base.h"

/* Removes the leftovers in the directory of `path`: files that could not be removed while they were mapped. */
void bshm_windows_remove_leftovers(const wchar_t *path);

#endif
