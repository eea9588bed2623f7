//go:build xrdcl && cgo

// Bearer tokens of several people in one process. The library's own ztn looks in the environment, which a process has
// once. The library gets what logs in by XrdSecLoadSecFactory, as every program may define one, and finds this: it gives
// the library's own, but for ztn of a URL that says whose token it is to be (xrdcl.intent, which also keeps its
// connections apart from those of others, and is not told to servers).

#include "shim.h"

#include <XrdOuc/XrdOucEnv.hh>
#include <XrdOuc/XrdOucErrInfo.hh>
#include <XrdSec/XrdSecInterface.hh>

#include <arpa/inet.h>
#include <dlfcn.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

XrdSecGetProt_t XrdSecLoadSecFactory(char *error, int size, const char *library) __attribute__((visibility("default")));

namespace {

const char name[] = "_Z20XrdSecLoadSecFactoryPciPKc"; // XrdSecLoadSecFactory
const char whose[] = "xrdcl.intent";
const size_t longest = 65535 - 1; // with a NUL it has to fit the two bytes of its length

// Ztn is the client's side of ztn for one login, over TLS: the library's own was made for it, which sees to that.
class Ztn : public XrdSecProtocol {
	XrdSecProtocol *own; // of the library
	std::string id;      // whose token

	~Ztn() override { own->Delete(); }

	static XrdSecCredentials *fail(XrdOucErrInfo *e, const char *text) {
		if (e != nullptr) {
			e->setErrInfo(EACCES, text);
		}
		return nullptr;
	}

public:
	Ztn(XrdSecProtocol *own, const char *id) : XrdSecProtocol("ztn"), own(own), id(id) {}

	void Delete() override { delete this; }

	int Authenticate(XrdSecCredentials *, XrdSecParameters **, XrdOucErrInfo *) override { return -1; } // for servers

	bool needTLS() override { return true; }

	// What is sent (XrdSecProtocolztn, TokenResp): "ztn" with a NUL, version 0, 'T', two bytes of 0, the length with the NUL at
	// the end, in network order, and the token.
	XrdSecCredentials *getCredentials(XrdSecParameters *, XrdOucErrInfo *e) override {
		char *text = nullptr;
		const bool good = tarnXrdToken(const_cast<char *>(id.c_str()), &text) != 0;
		if (text == nullptr) {
			return fail(e, "out of memory");
		}
		XrdSecCredentials *c = nullptr;
		const size_t n = strlen(text);
		if (!good) {
			fail(e, text);
		} else if (n > longest) {
			fail(e, "the token is too long for the protocol");
		} else {
			const size_t size = 10 + n + 1;
			char *b = static_cast<char *>(calloc(size, 1));
			if (b == nullptr) {
				fail(e, "out of memory");
			} else {
				memcpy(b, "ztn\0\0T", 6);
				const uint16_t length = htons(uint16_t(n + 1));
				memcpy(b + 8, &length, sizeof length);
				memcpy(b + 10, text, n);
				c = new XrdSecCredentials(b, int(size));
			}
		}
		memset(text, 0, n);
		free(text);
		return c;
	}
};

XrdSecGetProt_t theirs = nullptr; // set before the library gets ours

XrdSecProtocol *protocol(const char *host, XrdNetAddrInfo &to, XrdSecParameters &offered, XrdOucErrInfo *e) {
	XrdSecProtocol *p = theirs(host, to, offered, e);
	XrdOucEnv *env = e != nullptr ? e->getEnv() : nullptr;
	const char *id = env != nullptr ? env->Get(whose) : nullptr;
	if (p == nullptr || id == nullptr || strncmp(id, tarn_xrd_token_prefix, strlen(tarn_xrd_token_prefix)) != 0 || strcmp(p->Entity.prot, "ztn") != 0) {
		return p;
	}
	return new Ztn(p, id);
}

} // namespace

XrdSecGetProt_t XrdSecLoadSecFactory(char *error, int size, const char *library) {
	typedef XrdSecGetProt_t (*function)(char *, int, const char *);
	const function load = reinterpret_cast<function>(dlsym(RTLD_NEXT, name));
	if (load == nullptr) {
		strncpy(error, "libXrdUtils has no XrdSecLoadSecFactory", size_t(size));
		return nullptr;
	}
	theirs = load(error, size, library);
	return theirs != nullptr ? protocol : nullptr;
}

extern "C" int tarn_xrd_login_is_ours(void) { return dlsym(RTLD_DEFAULT, name) == reinterpret_cast<void *>(&XrdSecLoadSecFactory); }
