//go:build xrdcl && cgo

// The part of libXrdCl that package xrootd uses, for cgo. Every request is asynchronous: it ends with one call of
// tarnXrdAnswer, from a thread of the library or, when it cannot be sent at all, from within.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What a request ended with; pointers are valid during the call of tarnXrdAnswer only.
typedef struct {
	uint16_t code;    // of XrdCl::Status, 0 when it went well
	uint32_t error;   // of the server (XErrorCode) or of the system (errno)
	const char *text; // of an error; or what a query or listing gave
	size_t length;    // of text
	uint64_t size;    // of a stat, or read
	int64_t mtime;
	uint32_t flags;
	char id[64];
	char host[256]; // host:port that an error is of, behind redirectors; may be empty
} tarn_xrd_answer;

extern void tarnXrdAnswer(uintptr_t call, tarn_xrd_answer *a);

const char *tarn_xrd_version(void);

// How a name of who has a token begins; see login.cc.
#define tarn_xrd_token_prefix "tarn-"
// Gives whether there is a token that can be used, and the token, or else why not, in memory for the caller to free.
extern int tarnXrdToken(char *whose, char **text);
// Whether logins go by login.cc.
int tarn_xrd_login_is_ours(void);

// The CRC32C of a page as the library computes it: of bytes that follow others whose sum is crc.
uint32_t tarn_xrd_page_sum(uint32_t crc, const void *p, size_t n);
// Whether it does so by ours; see crc.cc.
int tarn_xrd_crc32c_is_ours(void);
void tarn_xrd_init(int connect, int again, int request);

enum { tarn_xrd_stat, tarn_xrd_rm, tarn_xrd_rmdir, tarn_xrd_mkdir, tarn_xrd_mv, tarn_xrd_list, tarn_xrd_checksum, tarn_xrd_space,
       tarn_xrd_config, tarn_xrd_locate };

void *tarn_xrd_fs_new(const char *url);
void tarn_xrd_fs_delete(void *fs);
// to is the other name of mv.
void tarn_xrd_fs(void *fs, int what, const char *path, const char *to, uint16_t seconds, uintptr_t call);

void *tarn_xrd_file_new(void);
void tarn_xrd_file_delete(void *file);
enum { tarn_xrd_reading, tarn_xrd_creating, tarn_xrd_updating };
void tarn_xrd_open(void *file, const char *url, int how, uint16_t seconds, uintptr_t call);
// What the library knows of a file; "" when it knows nothing.
void tarn_xrd_file_property(void *file, const char *name, char *value, size_t size);
// Of the moment of opening, when the server told it then and now is 0.
void tarn_xrd_file_stat(void *file, int now, uint16_t seconds, uintptr_t call);
// buffer belongs to the request until its answer.
void tarn_xrd_read(void *file, uint64_t offset, uint32_t length, void *buffer, uint16_t seconds, uintptr_t call);
void tarn_xrd_write(void *file, uint64_t offset, uint32_t length, const void *buffer, uint16_t seconds, uintptr_t call);
// A word to the server about an open file.
void tarn_xrd_control(void *file, const char *word, uint16_t seconds, uintptr_t call);
void tarn_xrd_sync(void *file, uint16_t seconds, uintptr_t call);
void tarn_xrd_close(void *file, uint16_t seconds, uintptr_t call);

#ifdef __cplusplus
}
#endif
