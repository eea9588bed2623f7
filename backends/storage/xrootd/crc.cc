//go:build xrdcl && cgo

// The CRC32C of pages. That of the library asks the processor for each page what it can do (CPUID), which ends in the
// monitor of a virtual machine and takes longer there than the page itself. The library calls its crc32c as every
// program may define one, and finds this.

#include "shim.h"

#include <dlfcn.h>

#if defined(__x86_64__)

#include <nmmintrin.h>

#include <cstring>

uint32_t crc32c(uint32_t crc, void const *buf, size_t len) __attribute__((visibility("default")));

namespace {

const char name[] = "_Z6crc32cjPKvm"; // crc32c

// A processor takes in a word each cycle, but gives the sum three cycles later: three parts of a page go side by side.
const size_t lane = 1360; // bytes, in whole words; three of them are a page of 4 KiB but for its last words

// Shift is what so many bytes of zeros make of a sum.
struct Shift {
	uint32_t of[4][256];

	explicit Shift(size_t bytes) {
		uint32_t bit[32];
		for (int i = 0; i < 32; i++) {
			bit[i] = uint32_t(1) << i;
			for (size_t n = 0; n < 8 * bytes; n++) {
				bit[i] = bit[i] >> 1 ^ (bit[i] & 1 ? 0x82f63b78 : 0);
			}
		}
		for (int k = 0; k < 4; k++) {
			for (int v = 0; v < 256; v++) {
				of[k][v] = 0;
				for (int i = 0; i < 8; i++) {
					of[k][v] ^= v >> i & 1 ? bit[8 * k + i] : 0;
				}
			}
		}
	}

	uint32_t operator()(uint32_t c) const { return of[0][c & 255] ^ of[1][c >> 8 & 255] ^ of[2][c >> 16 & 255] ^ of[3][c >> 24]; }
};

inline uint64_t word(const unsigned char *p) {
	uint64_t w;
	memcpy(&w, p, sizeof w);
	return w;
}

__attribute__((target("sse4.2"))) uint32_t sum(uint32_t crc, const unsigned char *p, size_t len) {
	static const Shift shift(lane);
	uint64_t a = ~crc;
	for (; len >= 3 * lane; p += 3 * lane, len -= 3 * lane) {
		uint64_t b = 0, c = 0;
		for (size_t i = 0; i < lane; i += 8) {
			a = _mm_crc32_u64(a, word(p + i));
			b = _mm_crc32_u64(b, word(p + i + lane));
			c = _mm_crc32_u64(c, word(p + i + 2 * lane));
		}
		a = shift(shift(uint32_t(a)) ^ uint32_t(b)) ^ c;
	}
	for (; len >= 8; p += 8, len -= 8) {
		a = _mm_crc32_u64(a, word(p));
	}
	for (; len > 0; p++, len--) {
		a = _mm_crc32_u8(uint32_t(a), *p);
	}
	return ~uint32_t(a);
}

} // namespace

uint32_t crc32c(uint32_t crc, void const *buf, size_t len) {
	static const bool fast = __builtin_cpu_supports("sse4.2");
	if (fast) {
		return sum(crc, static_cast<const unsigned char *>(buf), len);
	}
	typedef uint32_t (*function)(uint32_t, void const *, size_t);
	static const function theirs = reinterpret_cast<function>(dlsym(RTLD_NEXT, name));
	return theirs(crc, buf, len);
}

extern "C" int tarn_xrd_crc32c_is_ours(void) { return dlsym(RTLD_DEFAULT, name) == reinterpret_cast<void *>(&crc32c); }

#else

extern "C" int tarn_xrd_crc32c_is_ours(void) { return 0; }

#endif
