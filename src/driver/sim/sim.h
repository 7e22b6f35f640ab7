/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The simulated driver, inside: chance, the agenda of what happens when, and the objects that operations are about
 */

#include "driver/driver.h"

#include <signal.h>
#include <sys/types.h>

struct ew_process_options;
struct ew_sim_filesystem;
struct ew_sim_filesystem_options;

/*
 * A stream of random numbers for each concern: a test that makes more faults still has the same delays. A number is
 * drawn only for what it decides.
 */
enum ew__sim_concern {
	EW__SIM_STRENGTH, /* of the faults of this seed */
	EW__SIM_ORDER,	  /* of what happens at the same time */
	EW__SIM_DELAYS,
	EW__SIM_LENGTHS,
	EW__SIM_FAULTS,
	EW__SIM_CANCELS,  /* which of them come too late */
	EW__SIM_PLACES,	  /* which of several listeners, how large a buffer */
	EW__SIM_SCENARIO, /* what the program itself does by chance */
	EW__SIM_LEAPS,	  /* of the clock */
	EW__SIM_CONCERNS,
};

#define EW__SIM_OPERATIONS_MAX 20000000

/* Of the next run of this thread on the simulated driver; what came of it is written there when it ends. */
struct ew__sim_plan {
	uint64_t seed;
	unsigned faults;		      /* set of enum ew_sim_fault */
	struct ew_sim_filesystem *filesystem; /* NULL: none */
	uint64_t trace_hash;
	uint64_t operations;
	uint64_t faults_made;
	int64_t virtual_ns;
};

/* NULL: the seed is that of EW_SIM_SEED in the environment, or 1, and nothing fails. */
extern __thread struct ew__sim_plan *ew__sim_plan;

/*
 * The simulated kernel's own memory, as realloc() gives it; there is always enough. While it is asked for, a sweep that
 * fails the program's allocations looks away.
 */
void *ew__sim_allocate(void *memory, size_t bytes);
extern __thread bool ew__sim_allocating;

/* In 1,024ths. */
struct ew__sim_strengths {
	unsigned short_counts, delays, errors, resets, descriptors, files, leaps, syncs;
};

struct ew__sim_event {
	int64_t due_ns;
	uint64_t tie;
	struct ew__op *op;
};

struct ew__sim_object;
struct ew__sim_program;
struct ew__sim_child;

struct ew__sim {
	struct ew__driver driver;
	uint64_t chance[EW__SIM_CONCERNS];
	struct ew__sim_strengths strengths;
	struct ew__sim_event *agenda; /* a heap */
	unsigned agenda_count, agenda_room;
	struct ew__sim_object **objects; /* by descriptor */
	unsigned objects_room;
	struct ew__sim_object *listeners; /* and whatever else has an address */
	struct ew__op_line connecting;	  /* those that wait for room at a listener */
	struct ew__op_line
		outside; /* polls of descriptors that are not simulated: they wait for ever */
	struct ew_sim_filesystem *filesystem; /* outlives it */
	uint64_t signals_pending;	      /* a bit for each: one that comes twice is one */
	struct ew__sim_program *programs;
	unsigned children_made;
	int last_signal; /* raised when nothing else can happen; 0: none is */
	unsigned objects_made;
	unsigned port_next;
	int reserve; /* what is duplicated for a number */
	unsigned free_count;
	uint16_t free_buffers[EW__BUFFERS_COUNT];
	bool reported; /* something, by event(), in this visit */
	bool traced;   /* each note on stderr, too */
	uint64_t seed;
	uint64_t trace_hash;
	uint64_t operations;
	uint64_t faults_made;
	int64_t began_ns;
};

/* The one that runs on this thread; NULL: none does. */
extern __thread struct ew__sim *ew__sim;

/* A number below @below, which is not 0. */
uint64_t ew__sim_draw(struct ew__sim *sim, enum ew__sim_concern concern, uint64_t below);

/* The next number of a stream that is not the world's. */
uint64_t ew__sim_draw_from(uint64_t *chance);

/* Whether something happens that happens so many times in 1,024. */
bool ew__sim_happens(struct ew__sim *sim, enum ew__sim_concern concern, unsigned strength);

/* Whether a fault of that strength is to be made; it is counted. */
bool ew__sim_fails(struct ew__sim *sim, unsigned strength);

/* No more faults from now on. */
void ew__sim_calm(struct ew__sim *sim);

/* Goes into the hash of what has happened. */
void ew__sim_note(struct ew__sim *sim, uint64_t what, uint64_t about, int64_t result);

/* By lot a smaller size than @size, of what is transferred. */
size_t ew__sim_shortened(struct ew__sim *sim, size_t size);

/* ---- objects.c ---- */

/* A signal comes. Whether somebody waits for it; it stays until it is taken. */
bool ew__sim_raise(struct ew__sim *sim, int signal);

#define EW__SIM_SIGNAL_LAST 64

#define EW__SIM_WAITS INT32_MIN /* an attempt that has put the operation in a line */

/* The operation is begun: its descriptor stays. False: @op->result says why not. */
bool ew__sim_object_hold(struct ew__sim *sim, struct ew__op *op);
void ew__sim_object_let_go(struct ew__sim *sim, struct ew__op *op);

/* Out of its object's line, in which it waits. */
void ew__sim_object_leave(struct ew__sim *sim, struct ew__op *op);

/* Tries; a result, or EW__SIM_WAITS. */
int ew__sim_attempt(struct ew__sim *sim, struct ew__op *op);

/* The serial number of what it is about, for the trace. */
unsigned ew__sim_object_number(struct ew__sim *sim, const struct ew__op *op);

int ew__sim_objects_init(struct ew__sim *sim);
void ew__sim_objects_deinit(struct ew__sim *sim);

/* As write(2) and read(2) without waiting; for tests of the driver. */
int ew__sim_put(int fd, const void *data, size_t size);
int ew__sim_take(int fd, void *buffer, size_t size);

/* A descriptor for what was opened, taken on success; and what it is for, NULL: it is not for a file. */
struct ew__sim_file;
int ew__sim_file_descriptor(struct ew__sim *sim, struct ew__sim_file *file);
struct ew__sim_file *ew__sim_file_of(int fd);

/* A descriptor for a child, whose it is from then on, and its object; and the child that one is for, NULL: for none. */
int ew__sim_child_descriptor(struct ew__sim *sim, struct ew__sim_child *child,
			     struct ew__sim_object **ret_object);
struct ew__sim_child *ew__sim_child_of(int fd);

/* Of a child's: it has ended. */
void ew__sim_object_finished(struct ew__sim *sim, struct ew__sim_object *object);

/* The stream behind a descriptor, for another process to have, too. NULL: there is none. */
struct ew__sim_object *ew__sim_object_take(struct ew__sim *sim, int fd);
void ew__sim_object_drop(struct ew__sim *sim, struct ew__sim_object *object);

/* Reads or writes; a result, or EW__SIM_WAITS: @op, no operation of the driver's, is in the line. */
int ew__sim_object_transfer(struct ew__sim *sim, struct ew__sim_object *object, struct ew__op *op,
			    enum ew__op_code code, void *data, size_t size);
void ew__sim_object_stop_waiting(struct ew__sim_object *object, struct ew__op *op);

/* ---- child.c ---- */

/* -EINVAL: @ret_wrong, in @script, is no instruction; or, if that is NULL, the path is empty or has a program. */
int ew__sim_program_add(struct ew__sim *sim, const char *path, size_t path_length,
			const char *script, size_t script_length, const char **ret_wrong);
void ew__sim_programs_free(struct ew__sim *sim);

/* A signal's number by a name such as TERM; 0: there is none. */
int ew__sim_signal_named(const char *name, size_t length);

/* Of struct ew__system. */
int ew__sim_spawn(const struct ew_process_options *options, pid_t *ret_pid);
int ew__sim_child_state(int fd, siginfo_t *ret_info);
int ew__sim_child_signal(int fd, int signal);

void ew__sim_child_close(struct ew__sim_child *child);

/* Whether it is a child's turn, and no operation. */
bool ew__sim_is_childs(const struct ew__op *op);

/* ---- filesystem.c ---- */

extern const struct ew__system_files ew__sim_files;

int ew__sim_file_read(struct ew__sim_file *file, void *buffer, size_t size, int64_t offset);
int ew__sim_file_write(struct ew__sim_file *file, const void *data, size_t size, int64_t offset);
void ew__sim_file_close(struct ew__sim_file *file);

/* -EINVAL: a path that is not absolute, or ends with a slash; -EEXIST, -ENOENT: of a folder. */
int ew__sim_filesystem_new(const struct ew_sim_filesystem_options *options,
			   struct ew_sim_filesystem **ret_filesystem);
void ew__sim_filesystem_free(struct ew_sim_filesystem *filesystem);

/* mkdir(2), by a path from its root. */
int ew__sim_filesystem_make_folder(struct ew_sim_filesystem *filesystem, const char *path,
				   mode_t mode);

/* In the folder @path, in order; NULL: there are not so many. */
const char *ew__sim_filesystem_name(const struct ew_sim_filesystem *filesystem, const char *path,
				    unsigned number);

/* ---- sim.c, for objects.c and child.c ---- */

/* An operation that waits in a line, or whose descriptor has changed, is tried again, soon. */
void ew__sim_try_again(struct ew__sim *sim, struct ew__op *op);

/* Onto the agenda, and off it; that is nothing for what is not there. */
void ew__sim_plan_in(struct ew__sim *sim, struct ew__op *op, int64_t after_ns);
void ew__sim_unplan(struct ew__sim *sim, struct ew__op *op);
