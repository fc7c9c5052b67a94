/* windows_names.h - files that had to be moved out of the way. */
#ifndef BSHM_WINDOWS_NAMES_H
#define BSHM_WINDOWS_NAMES_H

#include "windows_base.h"

/* Removes the files in the directory of `path` that were moved out of the way and could not be removed at that time. */
void bshm_windows_remove_leftovers(const wchar_t *path);

#endif
