/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"

int engine_init(struct engine *engine, const struct options *options)
{
	engine->options = options;
	engine->clamd.socket = options->scanner_socket;
	if (options->scanner_kind != SCANNER_EXEC)
		return 0;
	return exec_init(&engine->exec, options->scanner_arguments);
}

int engine_identify(const struct engine *engine, struct engine_identity *ret_identity)
{
	if (engine->options->scanner_kind == SCANNER_CLAMD)
		return clamd_client_version(&engine->clamd, ret_identity->text, &ret_identity->pid);
	ret_identity->pid = 0;
	snprintf(ret_identity->text, sizeof(ret_identity->text), "exec:%s",
		 engine->options->scanner_arguments[0]);
	return 0;
}

static bool is_same(const struct engine_identity *one, const struct engine_identity *other)
{
	return one->pid == other->pid && strcmp(one->text, other->text) == 0;
}

static int scan_with_program(const struct engine *engine, int fd, struct verdict *verdict)
{
	char note[EXEC_NOTE_BYTES];
	int r;

	r = exec_scan(&engine->exec, fd, verdict, note);
	if (r == -EPROTO)
		log_note("warn", "scanner-failed", "%s: %s", engine->options->scanner_arguments[0],
			 note);
	return r;
}

int engine_scan(const struct engine *engine, int fd, const struct engine_identity *expected,
		struct verdict *verdict)
{
	struct engine_identity identity;
	int r;

	r = engine_identify(engine, &identity);
	if (r < 0)
		return r;
	if (!is_same(&identity, expected))
		return -ESTALE;
	memcpy(verdict->engine, identity.text, sizeof(verdict->engine));
	if (engine->options->scanner_kind == SCANNER_CLAMD)
		return clamd_client_scan(&engine->clamd, identity.pid, fd, verdict);
	return scan_with_program(engine, fd, verdict);
}
