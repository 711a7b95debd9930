// An emulation of the instructions on tiles (AMX-TILE, AMX-BF16, AMX-INT8) for
// processors without them. There they raise SIGILL; the handler decodes the instruction
// where that was raised, carries it out on tiles of the thread's own as the Intel
// Architectures Software Developer's Manual says (volume 2, instructions T), and goes on
// behind it. Everything else that raises SIGILL is left to who handled it before, Go's
// runtime.
//
// What the manual forbids raises no fault, since a test should say what was wrong: it is
// noted in words, and the instruction is skipped. So is to configure tiles that are
// configured, which the manual allows and our kernels must not.

#define _GNU_SOURCE // For the names of registers.

#include "emulator.h"

#include <errno.h>
#include <immintrin.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, CONFIG_BYTES = 64, NONE = -1 };

// The state of one thread.
static _Thread_local __attribute__((tls_model("initial-exec"))) struct {
	uint8_t palette; // 0: no tiles.
	uint16_t columns[TILES]; // Bytes of a row.
	uint8_t rows[TILES];
	uint8_t data[TILES][ROWS][ROW_BYTES] __attribute__((aligned(64)));
} state;

static struct sigaction before;
static _Atomic uint64_t executed;

// Notes of what was wrong. The lock is only ever held within handlers and by readers that
// block no signal of their own.
static char faults[8192];
static size_t noted;
static atomic_flag noting = ATOMIC_FLAG_INIT;

static void note(const char *format, ...)
{
	while (atomic_flag_test_and_set(&noting)) {
	}
	if (noted < sizeof faults - 256) {
		va_list args;
		va_start(args, format);
		int n = vsnprintf(faults + noted, 255, format, args);
		va_end(args);
		noted += n < 255 ? n : 254;
		faults[noted++] = '\n';
	}
	atomic_flag_clear(&noting);
}

size_t amxtest_faults(char *to, size_t size)
{
	while (atomic_flag_test_and_set(&noting)) {
	}
	size_t n = noted < size ? noted : size;
	memcpy(to, faults, n);
	noted = 0;
	atomic_flag_clear(&noting);
	return n;
}

uint64_t amxtest_executed(void) { return atomic_load(&executed); }

int amxtest_live(void) { return state.palette != 0; }

// The decoded instruction.
enum { PREFIX_NONE, PREFIX_66, PREFIX_F3, PREFIX_F2 };

typedef struct {
	uint8_t code, prefix;
	int reg, rm, vvvv; // Registers; rm is NONE where there is memory.
	uint8_t *address;
	int64_t stride;
	int index; // Whether there is an index register.
	int length;
} instruction;

// The registers of ucontext, by their numbers.
static const int registers[16] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

// decode reads an instruction of VEX with three bytes, map 0F38 and an opcode on tiles. It
// returns 0 if it is another, and notes what no such instruction may have.
static int decode(const uint8_t *at, const greg_t *gregs, instruction *in)
{
	if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[3] != 0x49 && at[3] != 0x4b && at[3] != 0x5c && at[3] != 0x5e))
		return 0;
	int r = !(at[1] & 0x80), x = !(at[1] & 0x40), b = !(at[1] & 0x20);
	int mod = at[4] >> 6, rm = at[4] & 7;
	in->code = at[3];
	in->prefix = at[2] & 3;
	in->vvvv = ~at[2] >> 3 & 15;
	in->reg = at[4] >> 3 & 7;
	in->index = 0;
	in->stride = 0;
	if (at[2] & 0x84) // W or L.
		note("instruction %02x: VEX.W or VEX.L is 1", in->code);
	if (r)
		note("instruction %02x: VEX.R names tile %d", in->code, in->reg + 8);
	if (mod == 3) {
		if (b)
			note("instruction %02x: VEX.B names tile %d", in->code, rm + 8);
		in->rm = rm;
		in->length = 5;
		return 1;
	}
	in->rm = NONE;
	in->length = 5;
	int64_t address;
	const uint8_t *rest = at + 5;
	if (rm == 4) {
		uint8_t sib = *rest++;
		int base = (sib & 7) | b << 3, index = (sib >> 3 & 7) | x << 3;
		in->length++;
		address = (sib & 7) == 5 && mod == 0 ? 0 : gregs[registers[base]];
		if (index != 4) {
			in->index = 1;
			in->stride = gregs[registers[index]] << (sib >> 6);
		}
		if ((sib & 7) == 5 && mod == 0)
			mod = 2;
	} else if (rm == 5 && mod == 0) {
		int32_t d;
		memcpy(&d, rest, 4);
		in->length += 4;
		in->address = (uint8_t *)at + in->length + d; // Relative to what follows.
		return 1;
	} else {
		address = gregs[registers[rm | b << 3]];
	}
	if (mod == 1) {
		address += (int8_t)*rest;
		in->length++;
	} else if (mod == 2) {
		int32_t d;
		memcpy(&d, rest, 4);
		address += d;
		in->length += 4;
	}
	in->address = (uint8_t *)address;
	return 1;
}

static void configure(const uint8_t *c)
{
	uint16_t columns[TILES];
	uint8_t palette = c[0];
	if (state.palette)
		note("LDTILECFG: the tiles are configured; TILERELEASE is missing");
	if (palette == 0) { // All is as at the start.
		memset(&state, 0, sizeof state);
		return;
	}
	if (palette != 1 || c[1] != 0) {
		note("LDTILECFG: palette %d, first row %d", palette, c[1]);
		return;
	}
	for (int i = 2; i < CONFIG_BYTES; i++) {
		int reserved = i < 16 || (i >= 32 && i < 48) || i >= 56;
		if (reserved && c[i]) {
			note("LDTILECFG: byte %d, which is reserved, is %d", i, c[i]);
			return;
		}
	}
	memcpy(columns, c + 16, sizeof columns);
	for (int i = 0; i < TILES; i++) {
		uint8_t rows = c[48 + i];
		if (columns[i] > ROW_BYTES || rows > ROWS || !columns[i] != !rows) {
			note("LDTILECFG: tile %d has %d rows of %d bytes", i, rows, columns[i]);
			return;
		}
	}
	memset(&state, 0, sizeof state);
	state.palette = palette;
	memcpy(state.columns, columns, sizeof columns);
	memcpy(state.rows, c + 48, TILES);
}

static void store_config(uint8_t *c)
{
	memset(c, 0, CONFIG_BYTES);
	if (!state.palette)
		return;
	c[0] = state.palette;
	memcpy(c + 16, state.columns, sizeof state.columns);
	memcpy(c + 48, state.rows, sizeof state.rows);
}

// present says whether a tile is configured.
static int present(const char *name, int tile)
{
	if (!state.palette)
		note("%s: no tile is configured", name);
	else if (tile >= TILES || !state.rows[tile])
		note("%s: tile %d is not configured", name, tile);
	else
		return 1;
	return 0;
}

static void load(const char *name, const instruction *in)
{
	if (!present(name, in->reg))
		return;
	memset(state.data[in->reg], 0, sizeof state.data[in->reg]);
	for (int m = 0; m < state.rows[in->reg]; m++)
		memcpy(state.data[in->reg][m], in->address + m * in->stride, state.columns[in->reg]);
}

static void store(const char *name, const instruction *in)
{
	if (!present(name, in->reg))
		return;
	for (int m = 0; m < state.rows[in->reg]; m++)
		memcpy(in->address + m * in->stride, state.data[in->reg][m], state.columns[in->reg]);
}

// row_bf16 adds the product of a row of pairs and a tile to a row of float32. The sums of
// the first and of the second elements of pairs go over k apart, and are added to each
// other and then to c at the end. The processor's flags say that subnormal numbers are zero.
__attribute__((target("avx2,fma"))) static void row_bf16(float *c, const uint32_t *a, uint8_t (*b)[ROW_BYTES], int k)
{
	for (int half = 0; half < 2; half++) {
		__m256 first = _mm256_setzero_ps(), second = _mm256_setzero_ps();
		for (int i = 0; i < k; i++) {
			__m256i pairs = _mm256_loadu_si256((const __m256i *)(b[i] + 32 * half));
			__m256 x = _mm256_castsi256_ps(_mm256_set1_epi32(a[i] << 16));
			__m256 y = _mm256_castsi256_ps(_mm256_set1_epi32(a[i] & 0xffff0000));
			first = _mm256_fmadd_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), first);
			second = _mm256_fmadd_ps(y, _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff0000))), second);
		}
		__m256 sum = _mm256_add_ps(first, second);
		_mm256_storeu_ps(c + 8 * half, _mm256_add_ps(_mm256_loadu_ps(c + 8 * half), sum));
	}
}

// row_int8 adds the product of a row of groups of four bytes and a tile to a row of int32,
// which goes round.
__attribute__((target("avx2"), optimize("O3"))) static void row_int8(uint32_t *c, const uint8_t *a, uint8_t (*b)[ROW_BYTES], int k, int sign_a, int sign_b)
{
	for (int i = 0; i < k; i++) {
		for (int j = 0; j < 4; j++) {
			int32_t x = sign_a ? (int8_t)a[4 * i + j] : a[4 * i + j];
			for (int n = 0; n < 16; n++) {
				uint8_t y = b[i][4 * n + j];
				c[n] += (uint32_t)(x * (sign_b ? (int8_t)y : y));
			}
		}
	}
}

static void multiply(const char *name, const instruction *in)
{
	int c = in->reg, a = in->rm, b = in->vvvv;
	if (!present(name, c) || !present(name, a) || !present(name, b))
		return;
	int k = state.columns[a] / 4;
	if (c == a || c == b || a == b) {
		note("%s: tiles %d, %d, %d are not three", name, c, a, b);
		return;
	}
	if (state.columns[a] % 4 || state.columns[b] % 4 || state.columns[c] % 4 || state.columns[c] != state.columns[b] ||
	    state.rows[c] != state.rows[a] || k != state.rows[b]) {
		note("%s: %d rows of %d bytes by %d rows of %d bytes to %d rows of %d bytes", name, state.rows[a], state.columns[a],
			state.rows[b], state.columns[b], state.rows[c], state.columns[c]);
		return;
	}
	// Columns behind those of b are zeros there, and so they stay in c.
	uint32_t flags = _mm_getcsr();
	_mm_setcsr(0x1f80 | 0x8040); // To nearest; subnormal numbers are zero, also as results.
	for (int m = 0; m < state.rows[c]; m++) {
		if (in->code == 0x5c)
			row_bf16((float *)state.data[c][m], (const uint32_t *)state.data[a][m], state.data[b], k);
		else
			row_int8((uint32_t *)state.data[c][m], state.data[a][m], state.data[b], k,
				in->prefix == PREFIX_F2 || in->prefix == PREFIX_F3, in->prefix == PREFIX_F2 || in->prefix == PREFIX_66);
	}
	_mm_setcsr(flags);
}

// execute carries an instruction out. It returns 0 if it is none on tiles.
static int execute(const instruction *in)
{
	static const char *const integers[] = {"TDPBUUD", "TDPBUSD", "TDPBSUD", "TDPBSSD"};
	int memory = in->rm == NONE;
	if (in->code != 0x5c && in->code != 0x5e && in->vvvv != 0)
		note("instruction %02x: VEX.vvvv names %d", in->code, in->vvvv);
	if (in->code == 0x49 && memory && in->reg == 0 && in->prefix == PREFIX_NONE) {
		configure(in->address);
	} else if (in->code == 0x49 && memory && in->reg == 0 && in->prefix == PREFIX_66) {
		store_config(in->address);
	} else if (in->code == 0x49 && !memory && in->reg == 0 && in->rm == 0 && in->prefix == PREFIX_NONE) {
		memset(&state, 0, sizeof state);
	} else if (in->code == 0x49 && !memory && in->rm == 0 && in->prefix == PREFIX_F2) {
		if (present("TILEZERO", in->reg))
			memset(state.data[in->reg], 0, sizeof state.data[in->reg]);
	} else if (in->code == 0x4b && memory && in->prefix != PREFIX_NONE) {
		if (!in->index && in->stride == 0)
			note("instruction 4b: no index says how far rows are apart");
		if (in->prefix == PREFIX_F3)
			store("TILESTORED", in);
		else
			load(in->prefix == PREFIX_F2 ? "TILELOADD" : "TILELOADDT1", in);
	} else if (in->code == 0x5c && !memory && in->prefix == PREFIX_F3) {
		multiply("TDPBF16PS", in);
	} else if (in->code == 0x5e && !memory) {
		multiply(integers[in->prefix], in);
	} else {
		return 0;
	}
	return 1;
}

// skip does what a PREFETCHT1 [register + displacement of a byte] or an ADD of registers of
// 64 bits does, with which our kernels fetch memory ahead between instructions on tiles:
// to take the next one without another signal makes tests several times as fast. It
// returns the length, or 0 if there is something else.
static int skip(const uint8_t *at, greg_t *gregs)
{
	if ((at[0] & 0xfe) == 0x40 && at[1] == 0x0f && at[2] == 0x18 && (at[3] & 0xf8) == 0x50 && (at[3] & 7) != 4)
		return 5;
	if ((at[0] & 0xfa) != 0x48 || at[1] != 0x01 || at[2] < 0xc0)
		return 0;
	greg_t *to = &gregs[registers[(at[2] & 7) | (at[0] & 1) << 3]];
	uint64_t a = *to, b = gregs[registers[(at[2] >> 3 & 7) | (at[0] & 4) << 1]], r = a + b;
	enum { CARRY = 1, PARITY = 4, ADJUST = 0x10, ZERO = 0x40, SIGN = 0x80, OVERFLOW = 0x800 };
	greg_t flags = gregs[REG_EFL] & ~(CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW);
	flags |= (r < a ? CARRY : 0) | (__builtin_parity(r & 0xff) ? 0 : PARITY) | ((a ^ b ^ r) & ADJUST) | (r ? 0 : ZERO) |
		(r >> 63 ? SIGN : 0) | (((a ^ r) & (b ^ r)) >> 63 ? OVERFLOW : 0);
	gregs[REG_EFL] = flags;
	*to = r;
	return 3;
}

static void handle(int number, siginfo_t *info, void *context)
{
	greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
	instruction in;
	uint64_t n = 0;
	while (decode((const uint8_t *)gregs[REG_RIP], gregs, &in) && execute(&in)) {
		gregs[REG_RIP] += in.length;
		n++;
		for (int length; (length = skip((const uint8_t *)gregs[REG_RIP], gregs)) > 0;)
			gregs[REG_RIP] += length;
	}
	if (n > 0) {
		atomic_fetch_add(&executed, n);
		return;
	}
	if (before.sa_flags & SA_SIGINFO)
		before.sa_sigaction(number, info, context);
	else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
		before.sa_handler(number);
	else
		signal(number, SIG_DFL); // It is raised once more.
}

int amxtest_install(void)
{
	struct sigaction action;
	memset(&action, 0, sizeof action);
	action.sa_sigaction = handle;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
	sigfillset(&action.sa_mask); // Nothing else on that stack.
	return sigaction(SIGILL, &action, &before) ? errno : 0;
}

int amxtest_call(const void *code, size_t size, const uintptr_t *a)
{
	void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return errno;
	memcpy(page, code, size);
	if (mprotect(page, size, PROT_READ | PROT_EXEC)) {
		int e = errno;
		munmap(page, size);
		return e;
	}
	((void (*)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t))page)(a[0], a[1], a[2], a[3], a[4], a[5]);
	munmap(page, size);
	return 0;
}
