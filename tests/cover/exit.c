/* SPDX-License-Identifier: Apache-2.0 */

/* In the variant that counts branches: what a process that leaves by _exit() or abort() has counted is not lost. */

#include <stdlib.h>
#include <unistd.h>

void __gcov_dump(void);
_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);
_Noreturn void __real_abort(void);
_Noreturn void __wrap_abort(void);

_Noreturn void __wrap__exit(int status)
{
	__gcov_dump();
	__real__exit(status);
}

_Noreturn void __wrap_abort(void)
{
	__gcov_dump();
	__real_abort();
}
