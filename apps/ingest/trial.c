/* SPDX-License-Identifier: Apache-2.0 */
/*
 * EICAR must be found, and the largest file that could ever be handed over, sparse but for EICAR in
 * front, must not be called clean: clamd says OK to what is over its limits, unless it is
 * configured to say so.
 */
#include "trial.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <endwell/scope.h>
#include <endwell/tempfile.h>

/* clamd never scans a file of this size or more, whatever its settings. */
#define CLAMD_BYTES_MAX (UINT64_C(2) << 30)

/*
 * The standard test file in two halves, so that neither this source nor the program is taken for a
 * virus.
 */
static const char eicar_first[] = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$";
static const char eicar_second[] = "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*";
#define EICAR_BYTES (sizeof(eicar_first) + sizeof(eicar_second) - 2)

static int make_and_scan(const struct trial *trial, uint64_t bytes,
			 const struct engine_identity *expected, struct verdict *verdict,
			 struct staged **ret_staged, int *ret_ending)
{
	EW_OWN(ew_tempfile, file);
	char eicar[EICAR_BYTES];
	int r;

	memcpy(eicar, eicar_first, sizeof(eicar_first) - 1);
	memcpy(eicar + sizeof(eicar_first) - 1, eicar_second, sizeof(eicar_second) - 1);

	r = staging_make(trial->staging, &file, ret_staged);
	if (r < 0)
		return r;
	r = ew_file_write(ew_tempfile_file(file), eicar, sizeof(eicar), 0);
	if (r < 0)
		return r;
	r = ew_file_truncate(ew_tempfile_file(file), (int64_t)bytes);
	if (r < 0)
		return r;
	r = ew_tempfile_seal(file);
	if (r < 0)
		return r;
	r = engine_scan(trial->engine, ew_file_fd(ew_tempfile_file(file)), expected, verdict);
	if (r < 0)
		return r;
	*ret_ending = ew_tempfile_close(&file);
	return *ret_ending;
}

struct testing {
	struct staging *staging;
	struct staged *staged;
	int ending; /* by name */
};

/* The file has been ended. */
static void settle(void *argument)
{
	struct testing *testing = argument;
	int implicit = ew_ending_error();

	(void)staging_settle(testing->staging, &testing->staged,
			     testing->ending < 0 ? testing->ending : implicit, NULL);
}

static int settle_close(void *testing)
{
	settle(testing);
	return 0;
}

/* Scans a file that has EICAR in front and is @bytes long. */
static int scan_test_file(const struct trial *trial, uint64_t bytes,
			  const struct engine_identity *expected, struct verdict *verdict)
{
	struct testing testing = { .staging = trial->staging };

	EW_GUARD(settled, &testing, .close = settle_close, .abort = settle);

	return make_and_scan(trial, bytes, expected, verdict, &testing.staged, &testing.ending);
}

/* Says whether clamd announces what is over its limits, archives included; else a word of warning. */
static int test_limits(const struct trial *trial, const struct engine_identity *identity,
		       char *ret_warning)
{
	struct verdict verdict = { 0 };
	int r;

	r = scan_test_file(trial, CLAMD_BYTES_MAX, identity, &verdict);
	if (r == 0 && verdict.kind == VERDICT_CLEAN)
		snprintf(
			ret_warning, TRIAL_REASON_BYTES,
			"; warning: it is silent about its limits, so archives over them pass: set "
			"`AlertExceedsMax yes` in clamd.conf");
	return r;
}

static int fails_with(int r, const char *what, const struct trial *trial, char *ret_reason)
{
	snprintf(ret_reason, TRIAL_REASON_BYTES, "%s %s: %s", trial->engine->options->scanner, what,
		 strerror(-r));
	return r;
}

static int calls_eicar(const struct verdict *verdict, const struct trial *trial, char *ret_reason)
{
	snprintf(ret_reason, TRIAL_REASON_BYTES,
		 "%s calls the EICAR test file %s: check that its signatures are loaded",
		 trial->engine->options->scanner, verdict_name(verdict->kind));
	return -EPERM;
}

static int is_silent(const struct trial *trial, char *ret_reason)
{
	snprintf(
		ret_reason, TRIAL_REASON_BYTES,
		"%s calls a file of %llu bytes with EICAR in front clean: it has a size limit and is "
		"silent about it; set `AlertExceedsMax yes` in clamd.conf (clamscan: "
		"--alert-exceeds-max=yes), or start with a --scan-limit within its limit",
		trial->engine->options->scanner, (unsigned long long)trial->largest_bytes);
	return -EPERM;
}

int trial_run(const struct trial *trial, struct engine_identity *ret_identity, char *ret_reason)
{
	char warning[TRIAL_REASON_BYTES] = "";
	struct verdict verdict = { 0 };
	int r;

	r = engine_identify(trial->engine, ret_identity);
	if (r < 0)
		return fails_with(r, "does not answer", trial, ret_reason);

	r = scan_test_file(trial, EICAR_BYTES, ret_identity, &verdict);
	if (r == 0 && verdict.kind != VERDICT_INFECTED)
		return calls_eicar(&verdict, trial, ret_reason);
	if (r == 0 && trial->largest_bytes > EICAR_BYTES)
		r = scan_test_file(trial, trial->largest_bytes, ret_identity, &verdict);
	if (r == 0 && verdict.kind == VERDICT_CLEAN)
		return is_silent(trial, ret_reason);
	if (r == 0 && trial->engine->options->scanner_kind == SCANNER_CLAMD)
		r = test_limits(trial, ret_identity, warning);
	if (r < 0)
		return fails_with(r, "fails to scan a test file", trial, ret_reason);

	snprintf(ret_reason, TRIAL_REASON_BYTES, "%s has passed its test%s",
		 trial->engine->options->scanner, warning);
	return 0;
}

int trial_spot_check(const struct trial *trial, const struct engine_identity *identity,
		     char *ret_reason)
{
	struct verdict verdict = { 0 };
	int r;

	r = scan_test_file(trial, EICAR_BYTES, identity, &verdict);
	if (r < 0)
		return fails_with(r, "fails to scan a test file", trial, ret_reason);
	return verdict.kind == VERDICT_INFECTED ? 0 : calls_eicar(&verdict, trial, ret_reason);
}
