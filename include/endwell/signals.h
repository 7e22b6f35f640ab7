/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Signals, as something to wait for
 */

#include <endwell/resource.h>
#include <signal.h>

struct ew_signals;

/** ew_signals_open() - receive @set, which must be among struct ew_run_options' signals; does not suspend */
EW_MUST_CHECK EW_API int ew_signals_open(const sigset_t *set, struct ew_signals **ret_signals);

/** ew_signals_wait() - the next signal's number. Errors: -ECANCELED, -ENOMEM the kernel has none for the wait: none was taken */
EW_SUSPENDS EW_API int ew_signals_wait(struct ew_signals *signals);

/** ew_signals_close() - end it by name. Errors: as ew_close() */
EW_SUSPENDS EW_API int ew_signals_close(struct ew_signals **signals);

#define ew_signals_open(...) (ew__here(EW_SITE("ew_signals_open")), ew_signals_open(__VA_ARGS__))
