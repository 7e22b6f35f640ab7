/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Children of a simulated world. A program is a path with a script, and a child goes through it, an instruction whenever its
 * turn on the agenda comes; in between it is there, or in the line of a stream that it reads or writes. It holds what it has
 * inherited as another process would: no descriptor of this one is taken for it.
 *
 * A signal that ends it does so a little later, in whatever it is about. The descriptor for it can be read when it has ended.
 */

#include "driver/sim/sim.h"

#include <ctype.h>
#include <endwell/clock.h>
#include <endwell/process.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define PID_FIRST    5000000 /* above any that the kernel gives */
#define BUFFER_BYTES 4096
#define HELD	     4 /* standard input, output and error, and one more */
#define INPUT	     0
#define OUTPUT	     1

enum word { SLEEP, PRINT, READ, COPY, IGNORE, EXIT, KILL, WORDS };

static const char *const words[WORDS] = {
	"sleep", "print", "read", "copy", "ignore", "exit", "kill"
};

struct instruction {
	enum word word;
	int number;
	const char *text; /* in the script */
	size_t length;
};

struct ew__sim_program {
	struct ew__sim_program *next;
	char *path;
	char *script;
};

struct ew__sim_child {
	struct ew__op op; /* on the agenda, or in a line */
	struct ew__sim *sim;
	struct ew__sim_object *held[HELD];
	struct ew__sim_object *waits_for; /* in whose line it is */
	struct ew__sim_object *own;	  /* of the descriptor for it */
	const char *at;			  /* in the script */
	pid_t pid;
	uint64_t ignored; /* signals */
	bool in_instruction;
	int ending_by; /* a signal that has come; 0: none has */
	size_t kept_at, kept;
	char buffer[BUFFER_BYTES];
	bool ended;
	siginfo_t info;
};

/* ---- scripts ---- */

int ew__sim_signal_named(const char *name, size_t length)
{
	const char *found;
	int signal;

	for (signal = 1; signal <= EW__SIM_SIGNAL_LAST; signal++) {
		found = sigabbrev_np(signal);
		if (found && strlen(found) == length && !strncmp(found, name, length))
			return signal;
	}
	return 0;
}

static bool read_number(struct instruction *instruction, int most)
{
	char *end;
	long number = strtol(instruction->text, &end, 10);

	instruction->number = (int)number;
	return instruction->length > 0 && isdigit(instruction->text[0]) &&
	       end == instruction->text + instruction->length && number <= most;
}

static bool read_argument(struct instruction *instruction)
{
	switch (instruction->word) {
	case SLEEP: return read_number(instruction, INT32_MAX);
	case EXIT: return read_number(instruction, 255);
	case IGNORE:
	case KILL:
		instruction->number = ew__sim_signal_named(instruction->text, instruction->length);
		return instruction->number > 0;
	case PRINT: return instruction->length < BUFFER_BYTES;
	default: return instruction->length == 0;
	}
}

/* "word argument; ...": the next, and behind it. False: it is none. */
static bool next_instruction(const char **at, struct instruction *ret)
{
	const char *text = *at + strspn(*at, " "), *end = strchrnul(text, ';');
	size_t length = strcspn(text, " ;");

	*at = *end ? end + 1 : end;
	for (ret->word = 0; ret->word < WORDS; ret->word++)
		if (strlen(words[ret->word]) == length && !strncmp(words[ret->word], text, length))
			break;
	if (ret->word == WORDS)
		return false;
	ret->text = text + length + strspn(text + length, " ");
	while (end > ret->text && end[-1] == ' ')
		end--;
	ret->length = (size_t)(end - ret->text);
	return read_argument(ret);
}

/* The first that is none; NULL: it is a script. */
static const char *find_wrong(const char *script)
{
	const char *at, *behind = script;
	struct instruction instruction;

	while (*(at = behind + strspn(behind, " "))) {
		behind = at;
		if (!next_instruction(&behind, &instruction))
			return at;
	}
	return NULL;
}

static char *copy_text(const char *text, size_t length)
{
	char *copy = ew__sim_allocate(NULL, length + 1);

	memcpy(copy, text, length);
	copy[length] = '\0';
	return copy;
}

static struct ew__sim_program *find_program(struct ew__sim *sim, const char *path, size_t length)
{
	struct ew__sim_program *program;

	for (program = sim->programs; program; program = program->next)
		if (strlen(program->path) == length && !strncmp(program->path, path, length))
			return program;
	return NULL;
}

int ew__sim_program_add(struct ew__sim *sim, const char *path, size_t path_length,
			const char *script, size_t script_length, const char **ret_wrong)
{
	char *copy = copy_text(script, script_length);
	const char *wrong = find_wrong(copy);
	struct ew__sim_program *program;

	*ret_wrong = wrong ? script + (wrong - copy) : NULL;
	if (wrong || path_length == 0 || find_program(sim, path, path_length)) {
		free(copy);
		return -EINVAL;
	}
	program = ew__sim_allocate(NULL, sizeof(*program));
	program->path = copy_text(path, path_length);
	program->script = copy;
	program->next = sim->programs;
	sim->programs = program;
	return 0;
}

/* ---- a child's life ---- */

static void drop_held(struct ew__sim_child *child)
{
	unsigned i;

	for (i = 0; i < HELD; i++)
		if (child->held[i])
			ew__sim_object_drop(child->sim, child->held[i]);
	memset(child->held, 0, sizeof(child->held));
}

static void end(struct ew__sim_child *child, int code, int status)
{
	child->ended = true;
	child->info = (siginfo_t){ .si_signo = SIGCHLD, .si_code = code };
	child->info.si_pid = child->pid;
	child->info.si_status = status;
	drop_held(child);
	ew__sim_note(child->sim, EW__OP_CALL, (unsigned)(child->pid - PID_FIRST), status);
	ew__sim_object_finished(child->sim, child->own);
}

/* A result, or EW__SIM_WAITS: it is in a line then. */
static int transfer(struct ew__sim_child *child, unsigned which, char *data, size_t size)
{
	struct ew__sim_object *object = child->held[which];
	int r = which == INPUT ? 0 : (int)size;

	if (object)
		r = ew__sim_object_transfer(child->sim, object, &child->op,
					    which == INPUT ? EW__OP_READ : EW__OP_WRITE, data,
					    size);
	if (r == EW__SIM_WAITS)
		child->waits_for = object;
	return r;
}

/* What is in its buffer. False: it waits, or has ended. */
static bool write_kept(struct ew__sim_child *child)
{
	int r;

	while (child->kept > 0) {
		r = transfer(child, OUTPUT, child->buffer + child->kept_at, child->kept);
		if (r == EW__SIM_WAITS)
			return false;
		if (r < 0 && !(child->ignored & (uint64_t)1 << (SIGPIPE - 1))) {
			end(child, CLD_KILLED, SIGPIPE);
			return false;
		}
		child->kept_at += r < 0 ? child->kept : (size_t)r;
		child->kept -= r < 0 ? child->kept : (size_t)r;
	}
	child->kept_at = 0;
	return true;
}

/* To the end of its input. False: as above. */
static bool read_on(struct ew__sim_child *child, bool copies)
{
	int r;

	for (;;) {
		if (!write_kept(child))
			return false;
		r = transfer(child, INPUT, child->buffer, sizeof(child->buffer));
		if (r == EW__SIM_WAITS)
			return false;
		if (r <= 0)
			return true;
		child->kept = copies ? (size_t)r : 0;
	}
}

static void keep_line(struct ew__sim_child *child, const struct instruction *line)
{
	memcpy(child->buffer, line->text, line->length);
	child->buffer[line->length] = '\n';
	child->kept = line->length + 1;
}

/* Whether the next one can follow. What it has to wait in the midst of is come back to. */
static bool carry_out(struct ew__sim_child *child, const struct instruction *now)
{
	bool begins = !child->in_instruction;

	child->in_instruction = true;
	switch (now->word) {
	case PRINT:
		if (begins)
			keep_line(child, now);
		return write_kept(child);
	case READ: return read_on(child, false);
	case COPY: return read_on(child, true);
	case IGNORE: child->ignored |= (uint64_t)1 << (now->number - 1); return true;
	case EXIT: end(child, CLD_EXITED, now->number); return false;
	case KILL: end(child, CLD_KILLED, now->number); return false;
	default:
		if (begins)
			ew__sim_plan_in(child->sim, &child->op, now->number * EW_MILLISECOND);
		return !begins;
	}
}

/* One instruction. The next comes soon, so that others have their turns. */
static void go_on(struct ew__op *op, int32_t unused)
{
	struct ew__sim_child *child = ew__container_of(op, struct ew__sim_child, op);
	const char *behind = child->at;
	struct instruction now;

	(void)unused;
	if (child->ending_by) {
		end(child, CLD_KILLED, child->ending_by);
		return;
	}
	if (!child->at[strspn(child->at, " ")]) {
		end(child, CLD_EXITED, 0);
		return;
	}
	ew_assert(next_instruction(&behind, &now));
	if (!carry_out(child, &now))
		return;
	child->in_instruction = false;
	child->at = behind;
	ew__sim_try_again(child->sim, op);
}

bool ew__sim_is_childs(const struct ew__op *op)
{
	return op->event == go_on;
}

/* ---- calls ---- */

static void hold_inherited(struct ew__sim_child *child, const struct ew_process_options *options)
{
	const int fds[HELD] = { options->stdin_fd, options->stdout_fd, options->stderr_fd,
				options->keep_fd };
	unsigned i;

	for (i = 0; i < HELD; i++)
		child->held[i] = ew__sim_object_take(child->sim, fds[i]);
}

int ew__sim_spawn(const struct ew_process_options *options, pid_t *ret_pid)
{
	struct ew__sim_program *program =
		find_program(ew__sim, options->path, strlen(options->path));
	struct ew__sim_child *child;
	int fd;

	if (!program)
		return -EOPNOTSUPP;
	if (ew__sim_fails(ew__sim, ew__sim->strengths.errors))
		return -EAGAIN;
	child = ew__sim_allocate(NULL, sizeof(*child));
	memset(child, 0, sizeof(*child));
	child->sim = ew__sim;
	fd = ew__sim_child_descriptor(ew__sim, child, &child->own);
	if (fd < 0) {
		free(child);
		return fd;
	}
	child->op.event = go_on;
	child->at = program->script;
	child->pid = PID_FIRST + (pid_t)ew__sim->children_made++;
	hold_inherited(child, options);
	ew__sim_try_again(ew__sim, &child->op);
	*ret_pid = child->pid;
	return fd;
}

int ew__sim_child_state(int fd, siginfo_t *ret_info)
{
	struct ew__sim_child *child = ew__sim_child_of(fd);

	if (!child)
		return -ECHILD;
	*ret_info = child->info; /* all zero while it runs */
	return 0;
}

/* The place where it is: a line, the agenda, or, when it has ended, none. */
static void leave(struct ew__sim_child *child)
{
	if (child->op.link)
		ew__sim_object_stop_waiting(child->waits_for, &child->op);
	else
		ew__sim_unplan(child->sim, &child->op);
}

/* Those that by default are nothing to it, as signal(7) has them, and those that would stop it, which nothing does here. */
static bool is_harmless(int signal)
{
	return signal == 0 || signal == SIGCHLD || signal == SIGCONT || signal == SIGURG ||
	       signal == SIGWINCH || signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN ||
	       signal == SIGTTOU;
}

int ew__sim_child_signal(int fd, int signal)
{
	struct ew__sim_child *child = ew__sim_child_of(fd);

	if (!child || child->ended)
		return -ESRCH;
	if (signal < 0 || signal > EW__SIM_SIGNAL_LAST)
		return -EINVAL;
	if (is_harmless(signal))
		return 0;
	if (signal != SIGKILL &&
	    (child->ending_by || (child->ignored & (uint64_t)1 << (signal - 1))))
		return 0;
	child->ending_by = signal;
	leave(child);
	ew__sim_try_again(child->sim, &child->op);
	return 0;
}

/* The descriptor for it is closed: nobody asks any more. */
void ew__sim_child_close(struct ew__sim_child *child)
{
	leave(child);
	drop_held(child);
	free(child);
}

void ew__sim_programs_free(struct ew__sim *sim)
{
	struct ew__sim_program *program;

	while ((program = sim->programs)) {
		sim->programs = program->next;
		free(program->path);
		free(program->script);
		free(program);
	}
}
